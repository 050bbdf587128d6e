"""Plan a run: freeze the catalog, resolve the base, open the MLflow run."""

import hashlib
import subprocess
from pathlib import Path

from enclip.catalog.snapshot import take_snapshot
from enclip.errors import ConfigError
from enclip.ledger import start_attempt
from enclip.pipeline.platform import Platform
from enclip.pipeline.promote import reconcile
from enclip.pipeline.runs import Origin, Plan, RunFolder, remember_last
from enclip.recipes import TINY, RetrainRecipe
from enclip.retrieval.text import words

SMALLEST_CATALOG = 20
PACKAGE = Path(__file__).parents[1]


def take(platform: Platform, run_id: str, recipe: RetrainRecipe, *, dag_id: str = "", dag_run_id: str = "") -> Plan:
    """Plan a retraining on the catalog as it is now. A run that is planned already keeps its plan.

    Raises:
        ConfigError: the catalog is too small, a focus category has no product, names are to be searched
            and there are none, the base is `champion` and there is none, or low-rank updates of `tiny` are
            asked for.
    """
    folder = RunFolder(platform.blobs, run_id)
    known = folder.find("plan", Plan)
    if known is not None:
        if known.recipe != recipe:
            raise ConfigError(f"Run {run_id} was planned with another recipe.", remedy="Choose another run id.")
        remember_last(platform.blobs, run_id)
        return known
    with folder.timed("snapshot"):
        products = platform.catalog.products()
        if len(products) < SMALLEST_CATALOG:
            raise ConfigError(
                f"The catalog has {len(products)} products; training needs at least {SMALLEST_CATALOG}.",
                remedy="Take products in with `enclip ingest PATH`.",
            )
        known_categories = set(products.category) | set(products.article_type)
        unknown = [name for name in recipe.train.focus if name not in known_categories]
        if unknown:
            raise ConfigError(
                f"No product has category {', '.join(map(repr, unknown))}.",
                remedy=f"Known categories: {', '.join(sorted(set(products.category)))[:400]}.",
            )
        if recipe.train.lora_rank and recipe.train.base == TINY:
            raise ConfigError(
                f"lora_rank={recipe.train.lora_rank} trains small changes of a base, and {TINY} starts from nothing.",
                remedy="Use lora_rank=0, or a pretrained base.",
            )
        if recipe.release.gallery != "image" and not any(map(words, products.name)):
            raise ConfigError(
                f"No product has a name that a gallery {recipe.release.gallery!r} could search.",
                remedy="Map a column with `enclip ingest --map name=COLUMN`, or search pictures alone.",
            )
        snapshot = take_snapshot(platform.catalog, platform.blobs)
        reconcile(platform)
        champion = platform.registry.alias("champion")
        base_source, base_version = "", None
        if recipe.train.base == "champion":
            if champion is None:
                raise ConfigError(
                    "There is no champion to fine-tune from.", remedy="Run a retraining without --base champion first."
                )
            manifest = platform.registry.release_manifest(champion)
            best = manifest.members[manifest.best_member]
            base_source, base_version = best.source, best.version
        origin = Origin(dag_id=dag_id, dag_run_id=dag_run_id, git_commit=git_commit(), lock_sha256=lock_sha256())
        mlflow_run_id = platform.registry.open_run(
            run_id,
            kind="retrain",
            params={**_flat(recipe), "snapshot": snapshot.digest, "num_products": snapshot.num_products},
            tags={**origin.model_dump(), "seed": str(recipe.train.seed)},
        )
        plan = Plan(
            run_id=run_id,
            kind="retrain",
            snapshot=snapshot.digest,
            num_products=snapshot.num_products,
            recipe=recipe,
            base_source=base_source,
            base_version=base_version,
            parent_release=champion,
            mlflow_run_id=mlflow_run_id,
            origin=origin,
        )
        start_attempt(platform.database, run_id=run_id, snapshot=snapshot.digest)
        folder.write("plan", plan)
        remember_last(platform.blobs, run_id)
    return plan


def git_commit() -> str:
    """The commit of the code that runs, with `+` where the package differs from it; "" outside a checkout.

    Other files may differ: a study that writes its report changes no code.
    """
    try:
        _git("ls-files", "--error-unmatch", "__init__.py")  # installed below somebody else's checkout, it is not in it
        commit = _git("rev-parse", "HEAD")
        changed = _git("status", "--porcelain", "--untracked-files=no", "--", ".")
    except (OSError, subprocess.SubprocessError):
        return ""
    return commit + ("+" if changed else "")


def code_sha256() -> str:
    """SHA-256 over the package's modules, by path: it names the code where there is no commit to name it."""
    digest = hashlib.sha256()
    for path in sorted(PACKAGE.rglob("*.py")):
        own = hashlib.sha256(path.read_bytes()).hexdigest()
        digest.update(f"{path.relative_to(PACKAGE).as_posix()} {own}\n".encode())
    return digest.hexdigest()


def _git(*arguments: str) -> str:
    """What git says in the package's folder."""
    done = subprocess.run(["git", "-C", PACKAGE, *arguments], capture_output=True, text=True, timeout=60, check=True)
    return done.stdout.strip()


def lock_sha256() -> str:
    """SHA-256 of requirements.lock beside the package; "" where it was installed without it."""
    lock = Path(__file__).parents[2] / "requirements.lock"
    return hashlib.sha256(lock.read_bytes()).hexdigest() if lock.is_file() else ""


def _flat(recipe: RetrainRecipe) -> dict[str, object]:
    return {
        f"{room}.{name}": value
        for room, beliefs in recipe.model_dump(mode="json").items()
        for name, value in beliefs.items()
    }
