"""Measure a run's release on *gate*, beside everything that its gates hold it against."""

import time
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from enclip.catalog.snapshot import load_snapshot, pixel_map
from enclip.evaluation.metrics import Evaluation, evaluate
from enclip.evaluation.queries import build_queries, headline_kind, majority_category, of_kind
from enclip.ledger import YEAR_DAYS, best_promoted_since
from enclip.models.clip import ClipEncoder, embed_pixels
from enclip.pipeline.gallery import measure, parts_alone, searcher_over, without_bank
from enclip.pipeline.members import load_member
from enclip.pipeline.names import encode_names
from enclip.pipeline.open_release import OpenRelease, open_release
from enclip.pipeline.platform import Platform
from enclip.pipeline.runs import ChoiceStep, EvaluationStep, Plan, QueryRow, ReleaseStep, RunFolder
from enclip.records import Floats, Products, Query, QueryKind, Split
from enclip.release import GallerySettings, Member
from enclip.retrieval.mix import WITHOUT_ATTRIBUTES, Mix
from enclip.retrieval.ranking import rank
from enclip.retrieval.searcher import Searcher
from enclip.retrieval.text import NameIndex

COST_QUERIES = 64
COST_REPEATS = 15
COST_PRODUCTS = 5_000


def evaluate_run(platform: Platform, run_id: str) -> EvaluationStep:
    """Ask challenger, champion, best release of the year, base and best member the same gate queries.

    All answer over the same gallery, the gate products of the challenger's snapshot, as they would serve:
    a champion that searches pictures alone is held against a challenger with names as it is.
    """
    folder = RunFolder(platform.blobs, run_id)
    plan, choice = folder.read("plan", Plan), folder.read("choose", ChoiceStep)
    version = folder.read("release", ReleaseStep).release
    with folder.timed("evaluate"):
        products = load_snapshot(platform.blobs, plan.snapshot)
        challenger = open_release(platform, version)
        is_gate = products.split == Split.GATE
        queries = build_queries(products.take(is_gate))
        texts = [query.text for query in queries]
        blocks = own = challenger.encode_texts(texts)
        searcher = challenger.searcher
        best = choice.best_member
        systems = {
            "challenger": measure(searcher, blocks, queries, allowed=is_gate).evaluation,
            "without clusters": measure(searcher, blocks, queries, allowed=is_gate, use_clusters=False).evaluation,
            "without bank": measure(without_bank(searcher), blocks, queries, allowed=is_gate).evaluation,
            "without attributes": measure(
                searcher.with_mix(**WITHOUT_ATTRIBUTES), blocks, queries, allowed=is_gate
            ).evaluation,
        }
        if challenger.student is not None:
            own = replace(challenger, student=None).encode_texts(texts)
            systems["without student"] = measure(searcher, own, queries, allowed=is_gate).evaluation
        protocol = challenger.manifest.gallery.protocol
        protocols: dict[str, str] = dict.fromkeys([*systems, "best member", "base"], protocol)
        for name, (searched, evaluation) in parts_alone(searcher, blocks, queries, allowed=is_gate).items():
            protocols[name], systems[name] = searched, evaluation
        if plan.kind == "retrain":  # a refresh brings no model that could be judged
            # By its own text tower: a release of one member has no student.
            alone = measure(searcher.member(best), [own[best]], queries, allowed=is_gate)
            systems["best member"] = alone.evaluation
        if choice.base is not None:
            systems["base"] = _base_evaluation(
                platform, plan, choice.base, challenger.manifest.gallery, products, is_gate, queries
            )
        others = {"champion": plan.parent_release, "best of the year": _best_of_year(platform, plan, version)}
        for name, other in others.items():
            if other is not None:
                systems[name] = _evaluation_of(platform, other, plan, products, is_gate, queries, texts)
                protocols[name] = platform.registry.release_manifest(other).gallery.protocol
        step = EvaluationStep(
            release=version,
            champion=plan.parent_release,
            best_of_year=others["best of the year"],
            headline=headline_kind(queries),
            queries=_rows(queries, products),
            systems={name: _values(evaluation) for name, evaluation in systems.items()},
            protocols={name: protocols[name] for name in systems},
            new_categories=_new_categories(platform, plan, products),
            overfit_gap=(
                _overfit_gap(challenger, products, is_gate, systems["challenger"]) if plan.kind == "retrain" else None
            ),
            **_cost(searcher, searcher.member(best), blocks, best, queries),
        )
        folder.write("evaluation", step)
    return step


def _evaluation_of(
    platform: Platform,
    release: int,
    plan: Plan,
    products: Products,
    allowed: NDArray[np.bool_],
    queries: Sequence[Query],
    texts: Sequence[str],
) -> Evaluation:
    opened = open_release(platform, release)
    searcher = searcher_over(platform, opened, products, snapshot=plan.snapshot)
    return measure(searcher, opened.encode_texts(texts), queries, allowed=allowed).evaluation


def _base_evaluation(
    platform: Platform,
    plan: Plan,
    base: Member,
    settings: GallerySettings,
    products: Products,
    allowed: NDArray[np.bool_],
    queries: Sequence[Query],
) -> Evaluation:
    """The untuned base over the allowed products, with names where the challenger has them, at the same weights."""
    model = load_member(platform.registry, base.source)
    pixels = pixel_map(products, platform.blobs, side=base.pixel_side, scratch=platform.scratch, digest=plan.snapshot)
    images = embed_pixels(model, pixels, model.device, rows=np.flatnonzero(allowed))
    gallery = products.take(allowed)
    encoder = ClipEncoder(model)
    texts = encoder.encode_texts([query.text for query in queries])
    if settings.protocol == "image":
        return evaluate(queries, rank(texts @ images.T, gallery.product_id, k=10))
    searcher = Searcher.build(
        gallery,
        [images],
        [1.0],
        cluster_count=1,
        mix=Mix(name_share=settings.name_share, bm25_weight=settings.bm25_weight),
        name_block_NDs=[encode_names(encoder, gallery)[0]],
        names=NameIndex(gallery) if settings.protocol == "hybrid" else None,
    )
    return measure(searcher, [texts], queries, allowed=np.ones(len(gallery), dtype=bool)).evaluation


def _best_of_year(platform: Platform, plan: Plan, version: int) -> int | None:
    """The best release promoted in the last year, where it is neither champion nor challenger."""
    existing = {release.version for release in platform.registry.releases()}
    best = best_promoted_since(platform.database, days=YEAR_DAYS, among=existing)
    return None if best in (plan.parent_release, version) else best


def _new_categories(platform: Platform, plan: Plan, products: Products) -> tuple[str, ...]:
    """Categories that the champion's snapshot does not have, for a retraining.

    A refresh has the champion's own models: for them nothing can be better or worse than before, and
    new products must not wait for a person to be found.
    """
    if plan.parent_release is None or plan.kind == "refresh":
        return ()
    before = load_snapshot(platform.blobs, platform.registry.release_manifest(plan.parent_release).snapshot)
    return tuple(sorted(set(products.category) - set(before.category) - {""}))


def _overfit_gap(
    release: OpenRelease, products: Products, is_gate: NDArray[np.bool_], on_gate: Evaluation
) -> float | None:
    """mAP@10 of a train sample of gate's size and mix, minus that of gate; None without queries there."""
    sample = np.zeros(len(products), dtype=bool)
    chance = np.random.default_rng(0)
    is_train = products.split == Split.TRAIN
    for category in sorted(set(products.category[is_gate])):
        rows = np.flatnonzero(is_train & (products.category == category))
        wanted = int(np.count_nonzero(is_gate & (products.category == category)))
        sample[chance.choice(rows, size=min(wanted, len(rows)), replace=False)] = True
    queries = build_queries(products.take(sample))
    queries = of_kind(queries, on_gate.headline)
    if not queries or not on_gate.results:
        return None
    blocks = release.encode_texts([query.text for query in queries])
    return measure(release.searcher, blocks, queries, allowed=sample).evaluation.map_at_10 - on_gate.map_at_10


def _cost(
    searcher: Searcher, single: Searcher, blocks: Sequence[Floats], best: int, queries: Sequence[Query]
) -> dict[str, float | None]:
    """Search time and memory as ratios to one member, in this process; medians of alternating runs.

    Over a small index a search is all overhead, so its time says nothing and is None.
    """
    memory_ratio = round(searcher.num_bytes / single.num_bytes, 3)
    if len(searcher.products) < COST_PRODUCTS:
        return {"search_ratio": None, "memory_ratio": memory_ratio}
    rows = _half_broad(queries)
    ours = [block[rows] for block in blocks]
    theirs = [ours[best]]
    words = [queries[row].text for row in rows]
    ratios = []
    for _ in range(COST_REPEATS):
        start = time.perf_counter()
        searcher.search(ours, k=10, texts=words)
        middle = time.perf_counter()
        single.search(theirs, k=10, texts=words)
        ratios.append((middle - start) / (time.perf_counter() - middle))
    return {
        "search_ratio": round(float(np.median(ratios)), 3),
        "memory_ratio": memory_ratio,
    }


def _half_broad(queries: Sequence[Query]) -> list[int]:
    """Rows of at most COST_QUERIES queries: half of them of type, whose search may have more to do, if there are."""
    types = [row for row, query in enumerate(queries) if query.kind is QueryKind.TYPE]
    others = [row for row, query in enumerate(queries) if query.kind is not QueryKind.TYPE]
    broad = types[: max(COST_QUERIES // 2, COST_QUERIES - len(others))]
    return broad + others[: COST_QUERIES - len(broad)]


def _rows(queries: Sequence[Query], products: Products) -> tuple[QueryRow, ...]:
    master_of = dict(zip(products.product_id, products.master_category, strict=True))
    return tuple(
        QueryRow(
            query_id=query.query_id,
            kind=query.kind,
            text=query.text,
            category=query.category,
            master_category=majority_category(master_of, query.relevant),
            num_relevant=len(query.relevant),
        )
        for query in queries
    )


def _values(evaluation: Evaluation) -> tuple[float, ...]:
    return tuple(round(result.ap_at_10, 6) for result in evaluation.results)
