"""A search without something: how well does “shirts without blue” leave the blue ones out?

For each articleType of the gate split and each colour that a tenth to seven tenths of its products have, the type is
asked for without the colour; relevant is the type in any other colour. One member, pictures alone, mAP@10 with a
bootstrap over these questions.

    ENCLIP_HOME=… python bench/studies/without.py 0 1 2 > docs/reports/without.md
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from enclip.config import Settings
from enclip.evaluation.intervals import paired_bootstrap
from enclip.evaluation.metrics import ap_at_10_of_scores
from enclip.evaluation.report import markdown_table
from enclip.models.checkpoint import load_checkpoint
from enclip.models.clip import ClipEncoder
from enclip.pipeline.platform import open_platform
from enclip.records import Floats, Split
from enclip.retrieval import fusion
from enclip.retrieval.half import single
from enclip.studies.definition import Setting
from enclip.studies.lab import Lab
from enclip.studies.material import Material

LEAST_PRODUCTS, SHARES = 15, (0.1, 0.7)
TURNS, AVOIDANCES = (0.15, 0.3, 0.5), (1.0, 2.0, 4.0)


@dataclass(frozen=True)
class Asked:
    """Per question the AP@10, and how many of the first ten show the colour."""

    ap_Q: NDArray[np.float64]
    unwanted_Q: NDArray[np.float64]


def main(folds: list[int]) -> None:
    """Print the report."""
    lab = Lab(open_platform(Settings()), tell=lambda _: None)
    found: dict[str, list[Asked]] = {}
    for fold in folds:
        for system, asked in _fold(Material(lab, Setting(), fold)).items():
            found.setdefault(system, []).append(asked)
    rows = [_row(system, parts, found["the type alone"]) for system, parts in found.items()]
    print("# A search without something\n")
    print(f"{sum(len(asked.ap_Q) for asked in found['the type alone'])} questions over folds {folds}, such as ", end="")
    print("“Shirts” without “Blue”; relevant is the type in any other colour. The gain's 95% is by bootstrap.\n")
    print(markdown_table(("search", "mAP@10", "gain (95%)", "of ten in that colour"), rows))
    print("\nTurning is done to the query's embedding, by that share of the colour's; heads add that many times")
    print("`1/τ·log(1 - p)` to a product's score, p the probability of the colour by its picture. A release does what")
    print("the line “turn 0.15, heads 2” says where heads know the words, and turns by 0.3 where they do not.\n")
    print(f"    ENCLIP_HOME=… python bench/studies/without.py {' '.join(map(str, folds))} > docs/reports/without.md")


def _fold(material: Material) -> dict[str, Asked]:
    member = material.candidates[-1]
    searcher = material.tuned([member], [1.0]).searcher.with_mix(pull=0.0)
    encoder = ClipEncoder(load_checkpoint(member.folder, device=material.lab.device))
    products, rows = material.world.products, np.flatnonzero(material.allowed(Split.GATE))
    kind_N, colour_N = products.article_type[rows].astype(str), products.base_colour[rows].astype(str)
    asked = _questions(kind_N, colour_N)
    kinds, colours = [kind for kind, _ in asked], [colour for _, colour in asked]
    unwanted_QN = np.stack([(kind_N == kind) & (colour_N == colour) for kind, colour in asked])
    relevant_QN = np.stack([kind_N == kind for kind in kinds]) & ~unwanted_QN
    kind_QD, colour_QD = encoder.encode_texts(kinds), encoder.encode_texts(colours)
    assert searcher.heads is not None
    image_ND = single(searcher.embedding_ND[rows])
    avoided_QN = np.stack([searcher.heads.avoidance(colour, image_ND) for colour in colours])

    def scores(turn: float) -> Floats:
        query_QD = fusion.mix_queries([kind_QD, colour_QD], [1.0, -turn])
        return searcher.exact_scores([query_QD], rows, texts=kinds)

    def judged(score_QN: Floats) -> Asked:
        first_QK = np.argsort(-score_QN, axis=1, kind="stable")[:, :10]
        return Asked(
            ap_at_10_of_scores(np.asarray(score_QN, np.float32), relevant_QN),
            np.take_along_axis(unwanted_QN, first_QK, axis=1).sum(axis=1).astype(np.float64),
        )

    systems: dict[str, Callable[[], Floats]] = {"the type alone": lambda: scores(0.0)}
    systems |= {f"turn {turn:g}": lambda turn=turn: scores(turn) for turn in TURNS}
    systems |= {f"heads {times:g}": lambda times=times: scores(0.0) + times * avoided_QN for times in AVOIDANCES}
    systems["turn 0.15, heads 2"] = lambda: scores(0.15) + 2 * avoided_QN
    systems["the colour by its label"] = lambda: scores(0.0) - 10.0 * unwanted_QN
    return {name: judged(make()) for name, make in systems.items()}


def _questions(kind_N: NDArray[np.str_], colour_N: NDArray[np.str_]) -> list[tuple[str, str]]:
    found = []
    for kind in np.unique(kind_N):
        own = colour_N[kind_N == kind]
        for colour, count in zip(*np.unique(own, return_counts=True), strict=True):
            if colour and len(own) >= LEAST_PRODUCTS and SHARES[0] <= count / len(own) <= SHARES[1]:
                found.append((str(kind), str(colour)))
    return found


def _row(system: str, parts: list[Asked], before: list[Asked]) -> tuple[str, float, str, float]:
    ours_Q, theirs_Q = (np.concatenate([part.ap_Q for part in side]) for side in (parts, before))
    found = paired_bootstrap(ours_Q, theirs_Q, alpha=0.025)
    gain = "" if parts is before else f"{found.mean:+.3f} ({found.low:+.3f}…{found.high:+.3f})"
    return system, float(ours_Q.mean()), gain, float(np.concatenate([part.unwanted_Q for part in parts]).mean())


if __name__ == "__main__":
    main([int(fold) for fold in sys.argv[1:]] or [0, 1, 2])
