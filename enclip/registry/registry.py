"""The registry as the rest of ENCLIP sees it: epochs, releases, aliases; MLflow stays behind it."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from enclip.errors import RegistryError, ReleaseError, WeightsError
from enclip.records import EpochVersion
from enclip.registry import names, pruning, releases, runs
from enclip.registry.connection import Connection
from enclip.registry.epochs import WEIGHTS_FILE, base_weights, epoch_version, epochs_of, log_epoch, source_of
from enclip.registry.packages import BASE_FOLDER, LINKED, discard_download, download_of, fetch_package, with_link
from enclip.registry.pruning import StoredVersion
from enclip.registry.releases import ReleaseVersion
from enclip.registry.runs import RunStatus
from enclip.release import Ingredient, Manifest, file_sha256, read_manifest


class Registry:
    """Epochs and releases at one MLflow tracking URI.

    Nothing is opened before the first call. Every method raises RegistryError, naming the registry,
    where it does not answer. Safe across threads.

    Args:
        tracking_uri: MLflow's; `sqlite:////…` works with nothing running.
        artifact_root: folder for artifacts of an embedded MLflow; None: the server decides.
        cache: folder for what is downloaded; it can be deleted.
    """

    def __init__(self, tracking_uri: str, artifact_root: Path | None, cache: Path) -> None:
        self.tracking_uri = tracking_uri
        self._connection = Connection(tracking_uri, artifact_root)
        self._cache = cache
        self._verified: set[str] = set()

    @property
    def shown_uri(self) -> str:
        """The tracking URI without a password."""
        return self._connection.shown_uri

    # Runs

    def open_run(
        self, run_id: str, *, kind: str, params: Mapping[str, object], tags: Mapping[str, str] | None = None
    ) -> str:
        """The MLflow run of `run_id`, made on first use; its id. Parameters keep their first value."""
        with self._connection.asking(f"open run {run_id!r} in"):
            return runs.open_run(self._connection, run_id, kind, params, tags or {})

    def log_figures(
        self,
        mlflow_run_id: str,
        *,
        params: Mapping[str, object] | None = None,
        metrics: Mapping[str, float] | None = None,
        step: int = 0,
    ) -> None:
        """More about a run. Parameters keep their first value; NaN and infinity are left out."""
        with self._connection.asking("write figures to"):
            if params:
                runs.log_params(self._connection, mlflow_run_id, params)
            if metrics:
                runs.log_metrics(self._connection, mlflow_run_id, metrics, step=step)

    def log_folder(self, mlflow_run_id: str, folder: Path, *, path: str = "") -> None:
        """A folder's files as the run's artifacts under `path`."""
        with self._connection.asking("write files to"):
            runs.log_folder(self._connection, mlflow_run_id, folder, path)

    def close_run(self, mlflow_run_id: str, *, status: RunStatus = "FINISHED") -> None:
        """End a run and the runs of its instances."""
        with self._connection.asking("close a run in"):
            runs.close_run(self._connection, mlflow_run_id, status)

    def run_link(self, mlflow_run_id: str) -> str:
        """Path of a run's page below an MLflow server's address."""
        return f"/#/experiments/{self._connection.experiment_id}/runs/{mlflow_run_id}"

    def models_link(self) -> str:
        """Path of the page that charts all epochs (in MLflow's view for machine learning, not for GenAI)."""
        return f"/#/experiments/{self._connection.experiment_id}/models?workflowType=machine_learning&viewMode=CHART"

    # Epochs

    def log_epoch(
        self,
        mlflow_run_id: str,
        folder: Path,
        *,
        instance: int,
        epoch: int,
        metrics: Mapping[str, float],
        snapshot: str,
        num_products: int,
        base: str = "",
        parent_version: int | None = None,
        ingredients: Sequence[Ingredient] = (),
    ) -> EpochVersion:
        """Register an epoch's checkpoint folder, or a soup's; called again with the same weights, the same version.

        Args:
            mlflow_run_id: of the retraining; the instance gets a run of its own below it.
            folder: `weights.safetensors`, and `model.json` with `init_id` and `dim`. Of a delta the base, epoch 0 of
                the same instance, must be registered before; the delta's version names it, and is stored without.
            metrics: named as MLflow names them; `val_map_at_10` becomes the version's mAP@10.
            snapshot: digest of the snapshot it was trained on, with `num_products` of its products.
            base: the base weights' name, for people.
            parent_version: the `enclip-epoch` version it was fine-tuned from, if it was one.
            ingredients: what a soup was averaged from; its instance and epoch are those of the last of them.
        """
        with self._connection.asking(f"log epoch {epoch} in"):
            return log_epoch(
                self._connection,
                mlflow_run_id,
                folder,
                instance=instance,
                epoch=epoch,
                metrics=metrics,
                snapshot=snapshot,
                num_products=num_products,
                base=base,
                parent_version=parent_version,
                ingredients=ingredients,
            )

    def epochs(self, run_id: str) -> list[EpochVersion]:
        """A run's epochs by instance and epoch; of an epoch trained twice, the newest."""
        with self._connection.asking("list epochs in"):
            return epochs_of(self._connection, run_id)

    def epoch(self, version: int) -> EpochVersion:
        """One version of `enclip-epoch`."""
        with self._connection.asking(f"read epoch version {version} from"):
            return epoch_version(self._connection, version)

    def fetch_epoch(self, source: str) -> Path:
        """A local folder with an epoch's `weights.safetensors` and `model.json`; with its base, where it is a delta.

        Raises:
            WeightsError: the weights, or the base's, are not those that were registered, or the base is gone.
            ReleaseError: the weights were pruned.
        """

        def check(folder: Path, model: Any) -> None:
            weights = folder / WEIGHTS_FILE
            if not weights.is_file() or file_sha256(weights) != model.tags[names.WEIGHTS]:
                raise WeightsError(
                    f"{weights} is missing or is not what {source} was registered with.",
                    remedy="Restore the file, or roll back to a release without this member.",
                )

        return self.with_base(self._fetch(source, names.CHECKPOINT, check))

    def with_base(self, folder: Path) -> Path:
        """The checkpoint of a folder in one that has its base too; the same folder where it needs none, or has it.

        Raises:
            WeightsError: no version has the base's weights, or the checkpoint's card cannot be read.
        """
        weights = base_weights(folder)
        if not weights or (folder / BASE_FOLDER).is_dir():
            return folder
        with self._connection.asking("look for base weights in"):
            source = source_of(self._connection, weights)
        return with_link(folder, self.fetch_epoch(source), self._cache / LINKED / file_sha256(folder / WEIGHTS_FILE))

    # Releases

    def log_release(self, mlflow_run_id: str, folder: Path, manifest: Manifest) -> int:
        """Register a release folder; called again with the same content, the same version."""
        with self._connection.asking("log a release in"):
            return releases.log_release(self._connection, mlflow_run_id, folder, manifest)

    def report_release(
        self,
        version: int,
        *,
        tags: Mapping[str, str] | None = None,
        metrics: Mapping[str, float] | None = None,
        description: str = "",
        artifacts: Path | None = None,
    ) -> None:
        """Add what was measured to a release: tags, metrics, a Markdown description, files. Repeatable."""
        with self._connection.asking(f"report on release {version} in"):
            releases.report_release(
                self._connection,
                releases.get_release(self._connection, version),
                tags=tags or {},
                metrics=metrics or {},
                description=description,
                folder=artifacts,
            )

    def releases(self, *, run_id: str | None = None) -> list[ReleaseVersion]:
        """The releases that have their files, or those that one run built; oldest first."""
        with self._connection.asking("list releases in"):
            found = releases.list_releases(self._connection, run_id=run_id)
        return [release for release in found if not release.is_pruned]

    def release(self, version: int) -> ReleaseVersion:
        """One release. Raises RegistryError naming those that exist."""
        with self._connection.asking(f"read release {version} from"):
            return releases.get_release(self._connection, version)

    def release_manifest(self, version: int) -> Manifest:
        """A release's manifest, without fetching its other files."""
        with self._connection.asking(f"read the manifest of release {version} from"):
            source = releases.get_release(self._connection, version).source
            raw = releases.fetch_manifest(self._connection, source, self._cache)
        try:
            return Manifest.model_validate_json(raw)
        except ValidationError as error:
            raise ReleaseError(
                f"The manifest of release {version} is not understood.", remedy="Upgrade enclip."
            ) from error

    def fetch_release(self, version: int) -> Path:
        """A local folder with a release's files, hashed against its manifest once in this process.

        Raises:
            ReleaseError: a file is missing or differs from the manifest, or all were pruned.
        """

        def check(folder: Path, _: Any) -> None:
            read_manifest(folder)

        return self._fetch(self.release(version).source, names.RELEASE, check)

    def _fetch(self, source: str, kind: str, check: Callable[[Path, Any], None]) -> Path:
        """A package's folder, checked once in this process.

        A download that is damaged, as a power cut leaves one, is made once more: the store's may be whole.
        """
        folder, model = fetch_package(self._connection, source, kind, self._cache)
        if source in self._verified:
            return folder
        try:
            check(folder, model)
        except (ReleaseError, WeightsError):
            if not folder.is_relative_to(self._cache):
                raise
            discard_download(folder)
            folder, model = fetch_package(self._connection, source, kind, self._cache)
            check(folder, model)
        self._verified.add(source)
        return folder

    # Aliases

    def resolve(self, ref: str | int) -> int:
        """The release that a version or an alias names. Raises RegistryError naming what exists."""
        text = str(ref).strip()
        if text.isascii() and text.isdecimal():
            return self.release(int(text)).version
        known = self.aliases()
        if text not in known:
            with self._connection.asking("list releases in"):
                remedy = releases.what_exists(self._connection)
            raise RegistryError(f"No release is called {text!r}.", remedy=remedy)
        return known[text]

    def aliases(self) -> dict[str, int]:
        """Every alias and the release it names."""
        with self._connection.asking("read the aliases of"):
            return releases.aliases(self._connection)

    def alias(self, name: str) -> int | None:
        """The release that an alias names, or None."""
        with self._connection.asking(f"read the alias {name!r} of"):
            return releases.aliased(self._connection, name)

    def set_alias(self, name: str, version: int) -> None:
        """Point an alias at a release: one atomic move, seen at once by every reader."""
        with self._connection.asking(f"move {name!r} in"):
            self._connection.client.set_registered_model_alias(names.RELEASE_MODEL, name, str(version))

    def drop_alias(self, name: str) -> None:
        """Remove an alias; harmless where there is none."""
        if self.alias(name) is not None:
            with self._connection.asking(f"drop {name!r} in"):
                self._connection.client.delete_registered_model_alias(names.RELEASE_MODEL, name)

    # Pruning

    def stored_versions(self, model: str) -> list[StoredVersion]:
        """All versions of `enclip-epoch` or `enclip`, pruned ones too; oldest first."""
        with self._connection.asking(f"list versions of {model} in"):
            return pruning.stored_versions(self._connection, model)

    def num_bytes(self, version: StoredVersion) -> int:
        """What `free` would give back."""
        with self._connection.asking(f"list the files of {version.model} {version.version} in"):
            return pruning.num_bytes(self._connection, version)

    def mark_pruned(self, version: StoredVersion) -> None:
        """From now on nobody may rely on a version's files: it is no release to go back to, and none to find again."""
        with self._connection.asking(f"mark {version.model} {version.version} in"):
            pruning.mark(self._connection, version)

    def free(self, version: StoredVersion) -> None:
        """Delete a version's files. Metrics, tags and reports stay. Repeatable.

        Raises:
            RegistryError: the store kept some of them.
        """
        with self._connection.asking(f"delete the files of {version.model} {version.version} in"):
            pruning.free(self._connection, version)

    def download_of(self, version: StoredVersion) -> Path:
        """Where a version's files lie on this machine, if they were fetched from elsewhere."""
        return download_of(version.source, version.folder, self._cache)
