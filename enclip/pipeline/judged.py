"""What people judged → the qrels of the next evaluation."""

from pathlib import Path

from enclip.errors import CatalogError
from enclip.evaluation.qrels import write_judged
from enclip.judgements import JudgedResult, judged_results
from enclip.pipeline.platform import Platform


def write_qrels(platform: Platform, path: Path) -> list[JudgedResult]:
    """Write every judged result of a query in words; what was written.

    A result is relevant where more judges found it good than bad. Queries without a good result are written too:
    who reads qrels leaves them out, as `enclip evaluate` does.

    Raises:
        CatalogError: no result of a query in words was judged good, so that there is nothing to evaluate by.
    """
    results = judged_results(platform.database)
    if not any(result.is_good for result in results):
        raise CatalogError(
            "No result of a query in words has been judged good yet.",
            remedy="Judge results on the page /compare of `enclip serve`.",
        )
    write_judged(path, ((result.text, result.product_id, result.is_good) for result in results))
    return results
