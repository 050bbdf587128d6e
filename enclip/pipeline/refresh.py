"""Plan a refresh: the champion's ensemble over the catalog as it is now."""

from enclip.catalog.snapshot import take_snapshot
from enclip.errors import ConfigError
from enclip.pipeline.platform import Platform
from enclip.pipeline.promote import reconcile
from enclip.pipeline.runs import ChoiceStep, Origin, Plan, RunFolder, remember_last
from enclip.pipeline.snapshot import git_commit, lock_sha256
from enclip.recipes import GatePolicy, ReleaseRecipe, RetrainRecipe, TrainRecipe


def prepare(platform: Platform, run_id: str, *, shards: int = 1, dag_id: str = "", dag_run_id: str = "") -> Plan:
    """Plan a refresh; a run that is planned already keeps its plan. The steps after it are retrain's.

    Members, weights, clusters and projection are the champion's; only the products differ.

    Raises:
        ConfigError: there is no champion.
    """
    folder = RunFolder(platform.blobs, run_id)
    known = folder.find("plan", Plan)
    if known is not None:
        remember_last(platform.blobs, run_id)
        return known
    with folder.timed("snapshot"):
        reconcile(platform)
        champion = platform.registry.alias("champion")
        if champion is None:
            raise ConfigError("There is no champion to refresh.", remedy="Run `enclip retrain` first.")
        manifest = platform.registry.release_manifest(champion)
        snapshot = take_snapshot(platform.catalog, platform.blobs)
        recipe = RetrainRecipe(
            train=TrainRecipe(base=manifest.base),
            release=ReleaseRecipe(
                shards=shards,
                rescored=manifest.rescored,
                gallery=manifest.gallery.protocol,
                **manifest.index.model_dump(include={"exact_up_to", "max_search_ms", "min_recall", "max_memory_mb"}),
            ),
            gate=GatePolicy(),
        )
        origin = Origin(dag_id=dag_id, dag_run_id=dag_run_id, git_commit=git_commit(), lock_sha256=lock_sha256())
        plan = Plan(
            run_id=run_id,
            kind="refresh",
            snapshot=snapshot.digest,
            num_products=snapshot.num_products,
            recipe=recipe,
            parent_release=champion,
            built_from=champion,
            mlflow_run_id=platform.registry.open_run(
                run_id,
                kind="refresh",
                params={"champion": champion, "snapshot": snapshot.digest, "num_products": snapshot.num_products},
                tags=origin.model_dump(),
            ),
            origin=origin,
        )
        choice = ChoiceStep(
            members=manifest.members,
            candidates=manifest.candidates,
            best_member=manifest.best_member,
            gallery=manifest.gallery,
            chosen_because=f"The ensemble of release {champion}, over {snapshot.num_products} products.",
        )
        folder.write("choose", choice)
        folder.write("plan", plan)
        remember_last(platform.blobs, run_id)
    return plan
