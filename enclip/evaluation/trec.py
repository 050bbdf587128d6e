"""Rankings and qrels → TREC files, from which third-party tools recompute every figure."""

from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

from enclip.blobs import write_whole
from enclip.evaluation.queries import headline_kind, of_kind
from enclip.records import Query, QueryKind, Ranking

DEPTH = 100
TAG = "enclip"
STEP = 1e-6  # between scores; single precision, which trec_eval reads them in, still tells them apart


def write_trec(folder: Path, queries: Sequence[Query], rankings: Sequence[Ranking]) -> tuple[Path, ...]:
    """Write `run.trec` and `qrels.trec` for exactly the headline's queries, and `*.type.trec`, `*.name.trec`.

    The first 100 products per query. Scores in the file are raised until all are above 0 (torchmetrics drops products
    whose score is not) and strictly decrease, as tools differ in how they break ties; their order is ours.

    Returns:
        The files written; kinds without queries get none.
    """
    answered = dict(zip((query.query_id for query in queries), rankings, strict=True))
    headline = headline_kind(queries)
    wanted = {"": headline, ".type": QueryKind.TYPE, ".name": QueryKind.NAME}
    written: list[Path] = []
    for suffix, kind in wanted.items():
        asked = of_kind(queries, kind)
        if suffix and not asked:
            continue
        run, qrels = folder / f"run{suffix}.trec", folder / f"qrels{suffix}.trec"
        write_whole(run, "".join(_run_lines(query.query_id, answered[query.query_id]) for query in asked).encode())
        write_whole(qrels, "".join(map(_qrels_lines, asked)).encode())
        written += [run, qrels]
    return tuple(written)


def trec_id(text: str) -> str:
    """An id as one word: white space, control characters and `%` are percent-encoded, the rest stays."""
    return "".join(
        quote(letter, safe="") if letter.isspace() or letter == "%" or not letter.isprintable() else letter
        for letter in text
    )


def _run_lines(query_id: str, ranking: Ranking) -> str:
    lines = []
    hits = ranking.hits[:DEPTH]
    raised = 1 - min((hit.score for hit in hits), default=0.0)
    previous = float("inf")
    for rank, hit in enumerate(hits, start=1):
        previous = min(hit.score + raised, previous - STEP)
        lines.append(f"{trec_id(query_id)} Q0 {trec_id(hit.product_id)} {rank} {previous:.6f} {TAG}\n")
    return "".join(lines)


def _qrels_lines(query: Query) -> str:
    return "".join(f"{trec_id(query.query_id)} 0 {trec_id(product_id)} 1\n" for product_id in sorted(query.relevant))
