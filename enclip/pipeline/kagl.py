"""Measure a release by the KAGL protocol (`enclip.evaluation.kagl`): by pictures, and as the leaderboard does."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from enclip.errors import CatalogError
from enclip.evaluation import kagl
from enclip.evaluation.kagl import Figures, Task
from enclip.evaluation.metrics import CUTOFF
from enclip.pipeline.measure import Gallery, gallery_of
from enclip.pipeline.open_release import OpenRelease, open_release
from enclip.pipeline.platform import Platform
from enclip.records import Floats, Products, Query
from enclip.retrieval.mix import WITHOUT_NAMES
from enclip.retrieval.ranking import rank
from enclip.retrieval.searcher import Searcher

BLOCK = 1024  # queries, or texts, at once
CHUNK = 8192  # products at once, where names are mixed in

Advance = Callable[..., None]  # advance(completed, total, note)


@dataclass(frozen=True)
class Texts:
    """Texts, each encoded once: names are both queries and, in the category tasks, part of a product.

    Attributes:
        row_of: text → row.
        block_TDs: per member `[T, D_k]` float32, unit norm; as large as the gallery's own embeddings.
    """

    row_of: Mapping[str, int]
    block_TDs: tuple[Floats, ...]

    def of(self, texts: Sequence[str]) -> list[Floats]:
        """Per member `[len(texts), D_k]`."""
        rows = [self.row_of[text] for text in texts]
        return [block_TD[rows] for block_TD in self.block_TDs]


def measure_kagl(
    platform: Platform,
    release: str | int,
    *,
    catalog: str = "",
    mapping: Mapping[str, str] | None = None,
    on_progress: Advance | None = None,
) -> dict[str, Any]:
    """The KAGL figures of a release, as JSON-able values.

    `tasks` are answered by the release's own search (index, clusters, bank, attributes) over pictures
    alone, whatever else it searches: names have no weight. `with_names` are the category
    tasks as the leaderboard has them, a tenth of the product's name mixed into its embedding; no
    index holds those, so they are scored exactly, and clusters stay out. A task whose column is
    empty is left out.

    Args:
        catalog: a source as `enclip ingest` takes it; all its products are the gallery, and the
            published lines stand beside. Default: the gate split of the release's own snapshot.
        on_progress: called with what is done, of how much, and of what.

    Raises:
        CatalogError: no usable product, or none has a name, a subCategory or an articleType.
    """
    advance = on_progress or (lambda *_: None)
    opened = open_release(platform, release)
    gallery = gallery_of(platform, opened, catalog=catalog, mapping=mapping, on_progress=on_progress)
    products = gallery.searcher.products.take(gallery.allowed)
    texts = _encoded(opened, products, advance)
    tasks = _by_pictures(gallery.searcher, gallery.allowed, texts, advance)
    if not tasks:
        raise CatalogError(
            f"{gallery.label} gives no query: no product has a name, a subCategory or an articleType.",
            remedy="Give products a name or an articleType.",
        )
    seen = gallery.seen & gallery.allowed
    unseen = gallery.allowed & ~seen
    return {
        "protocol": "kagl",
        "release": opened.version,
        "gallery": gallery.label,
        "num_products": len(products),
        "num_rejected": gallery.num_rejected,
        "tasks": _as_dicts(tasks),
        "with_names": _as_dicts(_with_names(gallery, texts)),
        "seen_in_training": {
            "num_products": int(np.count_nonzero(seen)),
            "tasks_without_them": (
                _as_dicts(_by_pictures(gallery.searcher, unseen, texts, advance)) if seen.any() else _as_dicts(tasks)
            ),
        },
        "published": [asdict(line) for line in kagl.PUBLISHED] if catalog else [],
        "published_source": kagl.SOURCE,
        "cautions": list(
            kagl.cautions(len(products), num_seen=int(np.count_nonzero(seen)), whole=bool(catalog)),
        ),
    }


def _encoded(opened: OpenRelease, products: Products, advance: Advance) -> Texts:
    """Every text that any task asks for or mixes in."""
    texts = sorted({str(text) for task in kagl.TASKS for text in getattr(products, task.column)} - {""})
    parts: list[list[Floats]] = []
    for start in range(0, len(texts), BLOCK):
        parts.append(opened.encode_texts(texts[start : start + BLOCK]))
        advance(min(start + BLOCK, len(texts)), len(texts), "texts encoded")
    blocks = tuple(np.concatenate(member) for member in zip(*parts, strict=True))
    return Texts({text: row for row, text in enumerate(texts)}, blocks)


def _by_pictures(searcher: Searcher, allowed: NDArray[np.bool_], texts: Texts, advance: Advance) -> dict[Task, Figures]:
    """Each task by the release's own search, a block of queries at a time."""
    asked = _asked(searcher.products.take(allowed), kagl.TASKS)
    pictures = searcher.with_mix(**WITHOUT_NAMES)
    return {task: _searched(pictures, allowed, texts, task, queries, advance) for task, queries in asked.items()}


def _searched(
    searcher: Searcher,
    allowed: NDArray[np.bool_],
    texts: Texts,
    task: Task,
    queries: Sequence[Query],
    advance: Advance,
) -> Figures:
    parts = []
    for start in range(0, len(queries), BLOCK):
        block = queries[start : start + BLOCK]
        asked = [query.text for query in block]
        rankings = searcher.search(texts.of(asked), k=CUTOFF, texts=asked, allowed=allowed)
        parts.append(kagl.values(block, rankings))
        advance(start + len(block), len(queries), f"queries, {task.title}")
    return kagl.figures(queries, np.concatenate(parts))


def _with_names(gallery: Gallery, texts: Texts) -> dict[Task, Figures]:
    """The category tasks over products of nine parts picture and one part name."""
    searcher = gallery.searcher
    row_M = np.flatnonzero(gallery.allowed)
    product_ids = searcher.products.product_id[row_M]
    found = {}
    for task, queries in _asked(searcher.products.take(row_M), kagl.CATEGORY_TASKS).items():
        score_QM = _mixed_scores(searcher, row_M, texts, texts.of([query.text for query in queries]))
        found[task] = kagl.figures(queries, kagl.values(queries, rank(score_QM, product_ids, k=CUTOFF)))
    return found


def _mixed_scores(searcher: Searcher, row_M: NDArray[np.int64], texts: Texts, query_QDs: Sequence[Floats]) -> Floats:
    """`score_QM` of the ensemble over products with their names mixed in; one without a name is its picture."""
    score_QM = np.zeros((len(query_QDs[0]), len(row_M)), np.float32)
    for start in range(0, len(row_M), CHUNK):
        row_C = row_M[start : start + CHUNK]
        names = searcher.products.name[row_C]
        is_named = names != ""
        name_CDs = texts.of(list(names[is_named]))
        for member, (query_QD, weight) in enumerate(zip(query_QDs, searcher.weights, strict=True)):
            mixed_CD = (1 - kagl.NAME_SHARE) * np.asarray(searcher.block(member)[row_C], np.float32)
            mixed_CD[is_named] += kagl.NAME_SHARE * name_CDs[member]
            mixed_CD /= np.linalg.norm(mixed_CD, axis=1, keepdims=True)
            score_QM[:, start : start + len(row_C)] += weight * (query_QD @ mixed_CD.T)
    return score_QM


def _asked(products: Products, tasks: Sequence[Task]) -> dict[Task, tuple[Query, ...]]:
    """The tasks' queries, without tasks that have none."""
    asked = {task: kagl.task_queries(products, task) for task in tasks}
    return {task: queries for task, queries in asked.items() if queries}


def _as_dicts(found: Mapping[Task, Figures]) -> dict[str, dict[str, float]]:
    return {task.key: figures.as_dict() for task, figures in found.items()}
