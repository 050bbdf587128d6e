"""(j) What makes members disagree usefully, for the same number of epochs?"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain, combinations

import numpy as np

from enclip.errors import WeightsError
from enclip.models.checkpoint import read_card
from enclip.records import overlap
from enclip.retrieval.ranking import rank
from enclip.studies.definition import Setting
from enclip.studies.findings import Fact, Findings
from enclip.studies.fusion import averageable, greedy_soup, said
from enclip.studies.lab import Epoch, Training, Trunk, best_of
from enclip.studies.material import Material, Values

PLAIN, DISTINCT, BRANCHES = "one plain run", "two distinct runs", "two branches of one trunk"
SNAPSHOTS, AUGMENTED = "three cycles of one run", "a plain run and one on poorer pictures"
RESIZED = "a plain run and one on smaller pictures"
VARIED = "two branches, one of poorer pictures and shorter captions"
BRANCHED_SMALLER = "two branches, one of smaller pictures"
BEST, UNIFORM, GREEDY, SOUP = "best member", "uniform ensemble", "greedy ensemble", "greedy soup"
RELEASE = "as a release"
CYCLES = 3
SHORTER = 0.3  # chance that an attribute is left out of a training caption
POORER = 0.6  # share of training pictures that are blurred, shrunk or made noisy; the recipe's is half of it
SMALLER = 0.8  # of the base's side


def named(system: str, way: str) -> str:
    """A system made of one way's members."""
    return f"{way}, {system}"


@dataclass(frozen=True)
class Way:
    """One way to spend the epochs.

    Attributes:
        trained: every epoch that was trained for it.
        parts: members, in parts that are hoped to disagree.
    """

    trained: Sequence[Epoch]
    parts: Sequence[Sequence[Epoch]]

    @property
    def members(self) -> list[Epoch]:
        """Those of all parts."""
        return list(chain(*self.parts))


def run(material: Material) -> Findings:
    """Each way's best member, ensembles and, where weights may be averaged, soup; all chosen on *select*.

    These by plain cosines; the greedy ensemble as a release too, with bank and heads, of one view of each picture.
    """
    systems: dict[str, Values] = {}
    facts: dict[str, Fact] = {}
    ways, left_out = ways_of(material)
    for name, way in ways.items():
        best = best_of(way.members)
        chosen, weights = material.greedy(way.members, most=material.setting.release.max_members)
        systems[named(BEST, name)] = material.ap(material.scores(best))
        systems[named(UNIFORM, name)] = material.uniform(way.members)
        systems[named(GREEDY, name)] = material.ap(material.weighted(chosen, weights))
        systems[named(RELEASE, name)] = material.searched(material.tuned(chosen, weights, views=1).searcher, chosen)
        facts[name] = {
            "epochs trained": len(way.trained),
            "training, s": sum(epoch.seconds for epoch in way.trained),
            "first ten not shared": disagreement(material, way.parts),
            "best member's mAP@10 on select": best.quality,
            "greedy ensemble": said(chosen),
        }
        if len(averageable(way.members)) == 1:
            soup, taken = greedy_soup(way.members, material.lab.soup)
            systems[named(SOUP, name)] = material.ap(material.scores(soup))
            facts[name] = {**facts[name], "greedy soup": said(taken)}
    return Findings(systems, {**facts, **left_out})


def disagreement(material: Material, parts: Sequence[Sequence[Epoch]]) -> float:
    """The share of their first ten that two members of different parts do not share, 0 to 1.

    The mean over such pairs and gate queries; 0 for a single part.
    """
    ids = material.world.gate.gallery.product_id
    found = [[rank(material.scores(epoch), ids, k=10) for epoch in part] for part in parts]
    apart = [
        1 - overlap(ours.product_ids, theirs.product_ids)
        for one, other in combinations(found, 2)
        for one_member in one
        for other_member in other
        for ours, theirs in zip(one_member, other_member, strict=True)
    ]
    return float(np.mean(apart)) if apart else 0.0


def trainings(setting: Setting, fold: int) -> list[Training]:
    """One plain run and one in cycles; of half as many epochs two plain ones, and one on poorer pictures."""
    whole = setting.instance(fold, 0)
    cyclic = whole.varied(schedule="cyclic", cycles=min(CYCLES, setting.epochs))
    one = whole.varied(epochs=max(1, setting.epochs // 2))
    other = one.varied(seed=whole.recipe.seed + 1)
    return [whole, cyclic, one, other, other.varied(low_quality=POORER)]


def ways_of(material: Material) -> tuple[dict[str, Way], dict[str, Fact]]:
    """The same number of epochs, spent in each way, and what a base cannot do. Each offers about as many members."""
    setting, train = material.setting, material.lab.train
    whole, cyclic, one, other, poorer = trainings(setting, material.world.number)
    half, quarter = one.recipe.epochs, max(1, setting.epochs // 4)
    plain = train(whole)[1:]
    branches = [branch(plain[half - 1], epochs=quarter, seed=whole.recipe.seed + number) for number in (1, 2)]

    def runs(*trainings: Training, before: Iterable[Epoch] = ()) -> Way:
        trained = [train(training)[1:] for training in trainings]
        each = -(-setting.offered // len(trained))
        return Way([*before, *chain(*trained)], [epochs[-each:] for epochs in trained])

    ways = {
        PLAIN: Way(plain, [[epoch] for epoch in plain[-setting.offered :]]),
        DISTINCT: runs(one, other),
        BRANCHES: runs(*branches, before=plain[:half]),
        VARIED: runs(
            branches[0], branches[1].varied(low_quality=POORER, attribute_dropout=SHORTER), before=plain[:half]
        ),
        SNAPSHOTS: Way(train(cyclic)[1:], [[epoch] for epoch in snapshots(train(cyclic))]),
        AUGMENTED: runs(one, poorer),
    }
    try:
        ways[RESIZED] = runs(one, _on_smaller(other, plain[0]))
        ways[BRANCHED_SMALLER] = runs(branches[0], _on_smaller(branches[1], plain[0]), before=plain[:half])
    except WeightsError as error:
        return ways, {name: {"left out, because": error.what} for name in (RESIZED, BRANCHED_SMALLER)}
    return ways, {}


def _on_smaller(training: Training, epoch: Epoch) -> Training:
    """The training at a smaller side than that of an epoch's pictures, in steps of 8 px."""
    side = read_card(epoch.folder).architecture.preprocessing.side
    return training.varied(image_side=max(8, round(SMALLER * side / 8) * 8))


def branch(trunk: Epoch, *, epochs: int, seed: int) -> Training:
    """A training that starts from an epoch of another, at the learning rate which that one had come down to.

    The trunk is cut before its end, so that nothing is annealed and heated up again.
    """
    training = trunk.training.varied(epochs=epochs, seed=seed, learning_rate=trunk.figures["learning_rate"])
    return training.model_copy(update={"trunk": Trunk(training=trunk.training, epoch=trunk.epoch)})


def snapshots(epochs: Sequence[Epoch]) -> list[Epoch]:
    """The last whole epoch of each cycle of a cyclic training (Huang et al., arXiv 1704.00109)."""
    recipe = epochs[0].training.recipe
    ends = [recipe.warmup + (1 - recipe.warmup) * cycle / recipe.cycles for cycle in range(1, recipe.cycles + 1)]
    last = {max(1, int(recipe.epochs * end + 1e-6)) for end in ends}
    return [epoch for epoch in epochs if epoch.epoch in last]
