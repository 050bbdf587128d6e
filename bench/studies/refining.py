"""Searches that refine: “shirts” without “blue”, “shoes” without “sports shoes”, like one product but in red.

Without: for each articleType of the gate split and each colour that a tenth to seven tenths of its products have, the
type is asked for without the colour, by pictures alone and by a hybrid; relevant is the type in any other colour.
Likewise each subCategory without one of its articleTypes, where that is called otherwise, by pictures alone. Like,
but: for 200 products of the gate split a colour that at least three others of their articleType have; relevant are
these, by pictures alone. One member, mAP@10 with a bootstrap over the questions.

    ENCLIP_HOME=… python bench/studies/refining.py 0 1 2 > docs/reports/refining.md
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from enclip.config import Settings
from enclip.evaluation.intervals import paired_bootstrap
from enclip.evaluation.markdown import markdown_table
from enclip.evaluation.metrics import ap_at_10_of_scores
from enclip.models.checkpoint import load_checkpoint
from enclip.models.clip import ClipEncoder
from enclip.pipeline.platform import open_platform
from enclip.records import Floats, Split
from enclip.retrieval import fusion
from enclip.retrieval.half import single
from enclip.retrieval.mix import WITHOUT_CLUSTERS
from enclip.retrieval.searcher import Searcher
from enclip.studies.definition import Setting
from enclip.studies.lab import Lab
from enclip.studies.material import Material

LEAST_PRODUCTS, SHARES = 15, (0.1, 0.7)
LIKED, LEAST_RELEVANT = 200, 3
TURNS, AVOIDANCES = (0.15, 0.3, 0.5), (1.0, 2.0, 4.0)


@dataclass(frozen=True)
class Asked:
    """Per question the AP@10, and how many of the first ten show the colour."""

    ap_Q: NDArray[np.float64]
    unwanted_Q: NDArray[np.float64]


def main(folds: list[int]) -> None:
    """Print the report."""
    lab = Lab(open_platform(Settings()), tell=lambda _: None)
    without: dict[str, list[Asked]] = {}
    by_name: dict[str, list[Asked]] = {}
    of_kind: dict[str, list[Asked]] = {}
    like: dict[str, list[Asked]] = {}
    for fold in folds:
        material = Material(lab, Setting(), fold)
        world, hybrid = _World.of(material), _World.of(material, names=True)
        parts = (
            (without, _without(world)),
            (by_name, _without_by_name(hybrid)),
            (of_kind, _without_a_kind(world)),
            (like, _like_but(world)),
        )
        for found, made in parts:
            for system, asked in made.items():
                found.setdefault(system, []).append(asked)
    print("# Searches that refine\n")
    print(f"Folds {', '.join(map(str, folds))}; 95% intervals of the gain by bootstrap over the questions. Made by\n")
    print(
        f"    ENCLIP_HOME=… python bench/studies/refining.py {' '.join(map(str, folds))} > docs/reports/refining.md\n"
    )
    print("## Without\n")
    _print_table(
        without, "of ten in that colour", such="“Shirts” without “Blue”; relevant is the type in any other colour"
    )
    print("\nTurning is done to the query's embedding, by that share of the colour's; heads add that many times")
    print("`1/τ·log(1 - p)` to a product's score, p the probability of the colour by its picture. A release does what")
    print("the line “turn 0.15, heads 2” says where heads know the words, and turns by 0.3 where they do not.\n")
    print("## Without, where names are searched\n")
    _print_table(by_name, "of ten in that colour", such="those above, asked of a hybrid")
    print("\nDoubts by name are taken off as those by pictures are, twice; a name that says nothing costs nothing. A")
    print("release with attributes by name does what the line “turn 0.15, heads 2, names 2” says.\n")
    print("## Without a kind\n")
    _print_table(of_kind, "of ten of that kind", such="“Shoes” without “Sports Shoes”; relevant are all other shoes")
    print(
        "\n“Sports Shoes” is the name of a kind, Sports a usage and Shoes the subCategory itself. A release takes the"
    )
    print("words as a whole, as the line “turn 0.15, heads 2” does, and not in each field by themselves.\n")
    print("## Like this, but\n")
    _print_table(like, "of ten in its own colour", such="like a navy blue shirt, “Red”; relevant are the red shirts")
    print("\nProduct and words weigh alike. A release does what the last line says: it completes words that name no")
    print("kind of thing by the product's articleType, and lets attributes and calibration act in full.")


def _print_table(found: dict[str, list[Asked]], unwanted: str, *, such: str) -> None:
    first = next(iter(found.values()))
    print(f"{sum(len(asked.ap_Q) for asked in first)} questions such as {such}.\n")
    rows = [_row(system, parts, first) for system, parts in found.items()]
    print(markdown_table(("search", "mAP@10", "gain (95%)", unwanted), rows), end="")


@dataclass(frozen=True)
class _World:
    """One fold's release of one member, and the gate split that it searches."""

    searcher: Searcher
    encoder: ClipEncoder
    rows: NDArray[np.int64]
    image_ND: Floats
    kind_N: NDArray[np.str_]
    colour_N: NDArray[np.str_]
    sub_category_N: NDArray[np.str_]
    fold: int

    @classmethod
    def of(cls, material: Material, *, names: bool = False) -> "_World":
        member, products = material.candidates[-1], material.world.products
        rows = np.flatnonzero(material.allowed(Split.GATE))
        searcher = material.tuned([member], [1.0], names=names).searcher.with_mix(**WITHOUT_CLUSTERS)
        return cls(
            searcher=searcher,
            encoder=ClipEncoder(load_checkpoint(member.folder, device=material.lab.device)),
            rows=rows,
            image_ND=single(searcher.embedding_ND[rows]),
            kind_N=products.article_type[rows].astype(str),
            colour_N=products.base_colour[rows].astype(str),
            sub_category_N=products.sub_category[rows].astype(str),
            fold=material.world.number,
        )

    def scores(self, query_QD: Floats, texts: Sequence[str], share: float = 1.0) -> Floats:
        """`score_QN` of the split, with words that make up a share of each query."""
        asked = self.searcher.asked([query_QD], texts, [share] * len(texts))
        return asked.query_QD @ self.image_ND.T - asked.offset_QE @ self.searcher.wording.offset_NE[self.rows].T


def _judged(score_QN: Floats, relevant_QN: NDArray[np.bool_], unwanted_QN: NDArray[np.bool_]) -> Asked:
    first_QK = np.argsort(-score_QN, axis=1, kind="stable")[:, :10]
    return Asked(
        ap_at_10_of_scores(np.asarray(score_QN, np.float32), relevant_QN),
        np.take_along_axis(unwanted_QN, first_QK, axis=1).sum(axis=1).astype(np.float64),
    )


def _without(world: _World) -> dict[str, Asked]:
    asked = _Without.of(world.kind_N, world.colour_N)
    avoided_QN = asked.avoided(world, names=False)
    plain = asked.scores(world, turn=0.0)
    systems = {"the type alone": plain}
    systems |= {f"turn {turn:g}": asked.scores(world, turn=turn) for turn in TURNS}
    systems |= {f"heads {times:g}": plain + times * avoided_QN for times in AVOIDANCES}
    systems["turn 0.15, heads 2"] = asked.scores(world, turn=0.15) + 2 * avoided_QN
    return asked.judged(systems, plain)


def _without_by_name(world: _World) -> dict[str, Asked]:
    asked = _Without.of(world.kind_N, world.colour_N)
    by_pictures_QN, by_both_QN = asked.avoided(world, names=False), asked.avoided(world, names=True)
    plain, turned = asked.scores(world, turn=0.0), asked.scores(world, turn=0.15)
    systems = {
        "the type alone": plain,
        "turn 0.15, heads 2": turned + 2 * by_pictures_QN,
        "turn 0.15, names 2": turned + 2 * (by_both_QN - by_pictures_QN),
        "turn 0.15, heads 2, names 2": turned + 2 * by_both_QN,
    }
    return asked.judged(systems, plain)


def _without_a_kind(world: _World) -> dict[str, Asked]:
    asked = _Without.of(world.sub_category_N, world.kind_N)
    plain, turned = asked.scores(world, turn=0.0), asked.scores(world, turn=0.15)
    heads, shown_ND = world.searcher.heads, world.searcher.shown(world.rows)
    assert heads is not None
    by_field_QN = np.zeros_like(plain)
    for kind, doubt_N in zip(asked.parts, by_field_QN, strict=True):
        for *_, shown_N in heads.shown(heads.asked(kind), shown_ND):
            doubt_N += heads.doubt(shown_N)
    systems = {
        "the subCategory alone": plain,
        "turn 0.15": turned,
        "turn 0.3": asked.scores(world, turn=0.3),
        "turn 0.15, heads 2, each field by itself": turned + 2 * by_field_QN,
        "turn 0.15, heads 2": turned + 2 * asked.avoided(world, names=False),
    }
    return asked.judged(systems, plain)


@dataclass(frozen=True)
class _Without:
    """What is asked for, and per question a part of it to turn from: of a kind a colour."""

    kinds: list[str]
    parts: list[str]
    relevant_QN: NDArray[np.bool_]
    unwanted_QN: NDArray[np.bool_]

    @classmethod
    def of(cls, kind_N: NDArray[np.str_], part_N: NDArray[np.str_]) -> "_Without":
        asked = _questions(kind_N, part_N)
        kind_QN = np.stack([kind_N == kind for kind, _ in asked])
        unwanted_QN = kind_QN & np.stack([part_N == part for _, part in asked])
        return cls([kind for kind, _ in asked], [part for _, part in asked], kind_QN & ~unwanted_QN, unwanted_QN)

    def scores(self, world: _World, *, turn: float) -> Floats:
        kind_QD, part_QD = world.encoder.encode_texts(self.kinds), world.encoder.encode_texts(self.parts)
        query_QD = fusion.mix_queries([kind_QD, part_QD], [1.0, -turn])
        return world.searcher.exact_scores([query_QD], world.rows, texts=self.kinds)

    def avoided(self, world: _World, *, names: bool) -> Floats:
        wording, shown_ND = world.searcher.wording, world.searcher.shown(world.rows)
        return np.stack([wording.avoidance(part, world.rows, shown_ND, names=names) for part in self.parts])

    def judged(self, systems: dict[str, Floats], plain: Floats) -> dict[str, Asked]:
        systems = {**systems, "by its label": plain - 10.0 * self.unwanted_QN}
        return {name: _judged(found_QN, self.relevant_QN, self.unwanted_QN) for name, found_QN in systems.items()}


def _like_but(world: _World) -> dict[str, Asked]:
    liked, colours = _wishes(world)
    kinds = [str(world.kind_N[row]) for row in liked]
    relevant_QN = np.stack(
        [(world.kind_N == kind) & (world.colour_N == colour) for kind, colour in zip(kinds, colours, strict=True)]
    )
    unwanted_QN = np.stack([world.colour_N == world.colour_N[row] for row in liked])
    own_QD = world.image_ND[liked]
    colour_QD = world.encoder.encode_texts(colours)
    completed = [f"{colour} {kind}" for colour, kind in zip(colours, kinds, strict=True)]
    completed_QD = world.encoder.encode_texts(completed)
    half, whole = [1.0, 1.0], 1.0
    systems = {
        "the product alone": own_QD @ world.image_ND.T,
        "product and colour, cosines": fusion.mix_queries([colour_QD, own_QD], half) @ world.image_ND.T,
        "product and colour": world.scores(fusion.mix_queries([colour_QD, own_QD], half), colours, 0.5),
        "product, colour and kind": world.scores(fusion.mix_queries([completed_QD, own_QD], half), completed, 0.5),
        "the same, attributes in full": world.scores(
            fusion.mix_queries([completed_QD, own_QD], half), completed, whole
        ),
    }
    for score_QN in systems.values():
        score_QN[np.arange(len(liked)), liked] = -np.inf  # a search leaves the product itself out
    return {name: _judged(score_QN, relevant_QN, unwanted_QN) for name, score_QN in systems.items()}


def _wishes(world: _World) -> tuple[list[int], list[str]]:
    """Products of the split, and for each another colour that its kind comes in."""
    chance = np.random.default_rng(world.fold)
    liked, wished = [], []
    for row in chance.permutation(len(world.rows)):
        same = world.colour_N[world.kind_N == world.kind_N[row]]
        known, counts = np.unique(same[(same != "") & (same != world.colour_N[row])], return_counts=True)
        offered = known[counts >= LEAST_RELEVANT]
        if len(offered) and len(liked) < LIKED:
            liked.append(int(row))
            wished.append(str(chance.choice(offered)))
    return liked, wished


def _questions(kind_N: NDArray[np.str_], part_N: NDArray[np.str_]) -> list[tuple[str, str]]:
    found = []
    for kind in np.unique(kind_N):
        own = part_N[kind_N == kind]
        for part, count in zip(*np.unique(own, return_counts=True), strict=True):
            if part and part != kind and len(own) >= LEAST_PRODUCTS and SHARES[0] <= count / len(own) <= SHARES[1]:
                found.append((str(kind), str(part)))
    return found


def _row(system: str, parts: list[Asked], before: list[Asked]) -> tuple[str, float, str, float]:
    ours_Q, theirs_Q = (np.concatenate([part.ap_Q for part in side]) for side in (parts, before))
    found = paired_bootstrap(ours_Q, theirs_Q, alpha=0.025)
    gain = "" if parts is before else f"{found.mean:+.3f} ({found.low:+.3f}…{found.high:+.3f})"
    return system, float(ours_Q.mean()), gain, float(np.concatenate([part.unwanted_Q for part in parts]).mean())


if __name__ == "__main__":
    main([int(fold) for fold in sys.argv[1:]] or [0, 1, 2])
