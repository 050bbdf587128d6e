"""An evaluation, paired query by query, becomes what the gates look at."""

import pytest

from enclip.pipeline.gate import evidence_of
from enclip.pipeline.runs import EvaluationStep, QueryRow
from enclip.recipes import GatePolicy
from enclip.records import QueryKind

POLICY = GatePolicy(min_queries=20, bootstrap=500)


def evaluation(systems: dict[str, float], *, counts: dict[tuple[str, str, QueryKind], int]) -> EvaluationStep:
    """Every system scores the same on every query; counts are by category, master category and kind."""
    queries = tuple(
        QueryRow(
            query_id=f"{kind}-{category}-{i}",
            kind=kind,
            text="",
            category=category,
            master_category=master,
            num_relevant=3,
        )
        for (category, master, kind), count in counts.items()
        for i in range(count)
    )
    return EvaluationStep(
        release=2,
        champion=1,
        best_of_year=None,
        headline=QueryKind.SPECIFIC,
        queries=queries,
        systems={name: (value,) * len(queries) for name, value in systems.items()},
        new_categories=("Hats",),
        overfit_gap=0.1,
        search_ratio=None,
        memory_ratio=2.0,
    )


COUNTS = {
    ("Shoes", "Footwear", QueryKind.SPECIFIC): 25,
    ("Sandals", "Footwear", QueryKind.SPECIFIC): 4,
    ("Flip Flops", "Footwear", QueryKind.SPECIFIC): 5,
    ("Hats", "Accessories", QueryKind.TYPE): 2,
    ("Sandals", "Footwear", QueryKind.NAME): 30,
    ("Shoes", "Footwear", QueryKind.NAME): 50,
}


def test_every_category_is_compared_with_its_own_queries() -> None:
    evidence = evidence_of(evaluation({"challenger": 0.5, "champion": 0.4}, counts=COUNTS), POLICY)

    assert evidence.categories["Shoes"].mean == pytest.approx(0.1)
    assert {name: found.num_queries for name, found in evidence.categories.items()} == {
        "Shoes": 25,
        "Sandals": 4,
        "Flip Flops": 5,
        "Hats": 2,
    }


def test_small_categories_are_pooled_by_master_category_and_by_their_names() -> None:
    evidence = evidence_of(evaluation({"challenger": 0.5, "champion": 0.4}, counts=COUNTS), POLICY)

    assert {name: pool.num_queries for name, pool in evidence.pooled.items()} == {
        "Footwear": 9,
        "Accessories": 2,
        "names": 30,
    }


def test_overall_comparisons_are_over_the_headline_alone() -> None:
    evidence = evidence_of(evaluation({"challenger": 0.5, "champion": 0.4}, counts=COUNTS), POLICY)

    assert evidence.num_queries == 34
    assert evidence.champion is not None
    assert evidence.champion.num_queries == 34


def test_without_a_champion_there_is_nothing_to_compare_categories_with() -> None:
    evidence = evidence_of(evaluation({"challenger": 0.5, "base": 0.1}, counts=COUNTS), POLICY)

    assert evidence.champion is None
    assert not evidence.categories
    assert not evidence.pooled
    assert evidence.base is not None
    assert evidence.base.mean == pytest.approx(0.4)


def test_a_new_category_brings_its_number_of_queries() -> None:
    evidence = evidence_of(evaluation({"challenger": 0.5, "champion": 0.4}, counts=COUNTS), POLICY)

    assert evidence.new_categories == {"Hats": 2}
