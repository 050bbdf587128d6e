"""What serves, what was tried last, what to go back to."""

from typing import Any

from enclip.ledger import last_promotion_to
from enclip.pipeline.platform import Platform
from enclip.pipeline.promote import previous_release, reconcile
from enclip.pipeline.runs import EvaluationStep, RunFolder
from enclip.release import Manifest


def read_status(platform: Platform) -> dict[str, Any]:
    """`{"champion", "challenger", "previous", "catalog", "tracking_uri"}`; champion is None before the first one."""
    reconcile(platform)
    aliases = platform.registry.aliases()
    champion = aliases.get("champion")
    counts = platform.catalog.counts()
    return {
        "champion": None if champion is None else _champion(platform, champion),
        "challenger": aliases.get("challenger"),
        "previous": previous_release(platform),
        "catalog": {"live": counts.live, "withdrawn": counts.withdrawn},
        "tracking_uri": platform.registry.shown_uri,
    }


def _champion(platform: Platform, release: int) -> dict[str, Any]:
    manifest = platform.registry.release_manifest(release)
    promotion = last_promotion_to(platform.database, release)
    return {
        "release": release,
        "members": [
            {"version": part.version, "instance": part.instance, "epoch": part.epoch, "weight": part.weight}
            for part in manifest.checkpoints
        ],
        "gallery": manifest.gallery.protocol,
        "metrics": _metrics(platform, manifest),
        "snapshot": manifest.snapshot,
        "num_products": manifest.num_products,
        "promoted_at": promotion.at.isoformat() if promotion else None,
        "reason": promotion.reason if promotion else "",
    }


def _metrics(platform: Platform, manifest: Manifest) -> dict[str, Any]:
    """The figures on *gate* that its run recorded; empty for a release that was never evaluated."""
    evaluation = RunFolder(platform.blobs, manifest.run_id).find("evaluation", EvaluationStep)
    if evaluation is None:
        return {}
    return {"map_at_10": evaluation.mean("challenger"), "by_category": evaluation.by_category}
