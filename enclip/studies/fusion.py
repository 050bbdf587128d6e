"""(e) How are members fused: scores, ranks, or weights?"""

import numpy as np

from enclip.models.checkpoint import save_checkpoint
from enclip.models.soup import average_checkpoints
from enclip.pipeline.soups import STATISTICS_FROM
from enclip.pipeline.train import training_rows
from enclip.retrieval.fusion import reciprocal_rank_fusion
from enclip.studies.findings import Findings
from enclip.studies.lab import Epoch
from enclip.studies.material import Material


def run(material: Material) -> Findings:
    """Sums, ranks and soups of the last epochs of each instance."""
    members = material.candidates
    even = [1 / len(members)] * len(members)
    soups = [_soup(material, epochs[-material.setting.offered :]) for epochs in material.instances]
    chosen, weights = material.greedy([*members, *soups], most=material.setting.release.max_members)
    systems = {
        "best epoch": material.ap(material.scores(material.best_epoch)),
        "uniform sum of cosines": material.ap(material.weighted(members, even)),
        "reciprocal rank fusion": material.ap(reciprocal_rank_fusion([material.scores(epoch) for epoch in members])),
        "greedy sum of cosines": material.ap(material.weighted(*material.ensemble)),
        "uniform soup of one instance": material.ap(material.scores(soups[0])),
        "sum of the instances' soups": material.ap(material.weighted(soups, [1 / len(soups)] * len(soups))),
        "greedy over epochs and soups": material.ap(material.weighted(chosen, weights)),
    }
    return Findings(systems)


def _soup(material: Material, epochs: list[Epoch]) -> Epoch:
    folder = epochs[-1].folder.with_name(f"soup-{len(epochs)}-{epochs[-1].epoch:02d}")
    pixels = material.lab.base_pixels
    if not folder.is_dir():
        rows = training_rows(material.world.products, epochs[-1].training.recipe)
        sample = np.sort(np.random.default_rng(0).permutation(rows)[:STATISTICS_FROM])
        soup = average_checkpoints(
            [epoch.folder for epoch in epochs], pixels=pixels[sample], device=material.lab.device
        )
        save_checkpoint(folder, soup, pixel_side=pixels.shape[1])
    return Epoch(epochs[-1].training, epochs[-1].epoch, folder, 0.0, {}, 0.0)
