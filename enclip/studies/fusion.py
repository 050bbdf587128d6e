"""(e) How are members fused: scores, ranks, or weights?"""

from collections.abc import Callable, Iterable, Sequence

from enclip.models.checkpoint import read_card
from enclip.retrieval.fusion import reciprocal_rank_fusion
from enclip.studies.findings import Fact, Findings
from enclip.studies.lab import Epoch
from enclip.studies.material import Material, Values

ALPHAS = (0.25, 0.5, 0.75)  # of the tuned weights; the rest is the base's


def run(material: Material) -> Findings:
    """Sums, ranks and soups of the last epochs of each instance; from a pretrained base also WiSE-FT."""
    members = material.candidates
    soups = [material.lab.soup(epochs[-material.setting.offered :]) for epochs in material.instances]
    greedy = [greedy_soup(epochs, material.lab.soup) for epochs in averageable(members)]
    best_soup, _ = max(greedy, key=lambda made: made[0].quality)
    chosen, weights = material.greedy([*members, *soups], most=material.setting.release.max_members)
    systems = {
        "best epoch": material.ap(material.scores(material.best_epoch)),
        "uniform sum of cosines": material.uniform(members),
        "reciprocal rank fusion": material.ap(reciprocal_rank_fusion([material.scores(epoch) for epoch in members])),
        "greedy sum of cosines": material.ap(material.weighted(*material.ensemble)),
        "uniform soup of one instance": material.ap(material.scores(soups[0])),
        "sum of the instances' soups": material.uniform(soups),
        "greedy soup": material.ap(material.scores(best_soup)),
        "greedy over epochs and soups": material.ap(material.weighted(chosen, weights)),
    }
    facts: dict[str, Fact] = {
        f"greedy soup {number}": {"epochs": said(taken), "its mAP@10 on select": soup.quality}
        for number, (soup, taken) in enumerate(greedy)
    }
    base = material.lab.train(material.best_epoch.training)[0]
    if _is_trained(base):
        wise_systems, facts["WiSE-FT"] = _wise_ft(material, base, material.best_epoch)
        systems |= wise_systems
    return Findings(systems, facts)


def averageable(epochs: Iterable[Epoch]) -> list[list[Epoch]]:
    """The epochs by initialisation and architecture, in the order given: those of one list may be averaged."""
    found: dict[str, list[Epoch]] = {}
    for epoch in epochs:
        card = read_card(epoch.folder)
        found.setdefault(f"{card.init_id} {card.architecture.model_dump_json()}", []).append(epoch)
    return list(found.values())


def greedy_soup(epochs: Sequence[Epoch], average: Callable[[Sequence[Epoch]], Epoch]) -> tuple[Epoch, list[Epoch]]:
    """The greedy soup of epochs that may be averaged, and those that it averages.

    From the best on *select* down, each is added where the average's mAP@10 on *select* does not fall
    (Wortsman et al., arXiv 2203.05482, recipe 1): never worse there than the best epoch, which it may be.
    """
    best, *others = sorted(epochs, key=lambda epoch: -epoch.quality)
    soup, taken = best, [best]
    for epoch in others:
        tried = [known for known in epochs if known in taken or known is epoch]
        made = average(tried)
        if made.quality >= soup.quality:
            soup, taken = made, tried
    return soup, taken


def said(epochs: Sequence[Epoch]) -> str:
    """Epochs for a table, with the seeds of their trainings."""
    return ", ".join(f"{epoch.epoch} of seed {epoch.training.recipe.seed}" for epoch in epochs)


def _is_trained(base: Epoch) -> bool:
    """Whether a base has learned something; random weights are no end of an interpolation."""
    card = read_card(base.folder)
    return not card.from_scratch or card.epochs_trained > 0


def _wise_ft(material: Material, base: Epoch, tuned: Epoch) -> tuple[dict[str, Values], Fact]:
    """Weights between base and tuned epoch (Wortsman et al., arXiv 2109.01903), with α from *select*, ends included."""
    between = {alpha: material.lab.soup([base, tuned], [1 - alpha, alpha]) for alpha in ALPHAS}
    line = {0.0: base, **between, 1.0: tuned}
    alpha = max(line, key=lambda alpha: line[alpha].quality)
    systems = {f"WiSE-FT, α = {alpha}": material.ap(material.scores(epoch)) for alpha, epoch in between.items()}
    systems["WiSE-FT, α chosen on select"] = material.ap(material.scores(line[alpha]))
    return systems, {"α": alpha, "its mAP@10 on select": line[alpha].quality}
