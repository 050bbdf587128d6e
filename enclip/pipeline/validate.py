"""mAP@10 of models on one split: what an epoch is judged by (pictures alone) and a candidate (names too, if asked)."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from enclip.evaluation.metrics import Evaluation, ap_at_10_of_scores, evaluate, relevance
from enclip.evaluation.queries import build_queries
from enclip.models.clip import ClipEncoder, ClipModel, embed_pixels
from enclip.pipeline.names import encode_names
from enclip.records import Floats, Products, QueryKind, Ranking, Split
from enclip.retrieval.ranking import rank
from enclip.retrieval.text import named

DEPTH = 10  # what AP@10 needs of a ranking


class Validator:
    """The specific and type queries over one split as gallery, asked of any model."""

    def __init__(self, products: Products, *, split: Split) -> None:
        self._rows = np.flatnonzero(products.split == split)
        self.gallery = products.take(self._rows)
        self.queries = tuple(query for query in build_queries(self.gallery) if query.kind is not QueryKind.NAME)
        self.texts = [query.text for query in self.queries]
        self._relevant_QN = relevance(self.queries, self.gallery.product_id)

    def scores(self, model: ClipModel, pixels: NDArray[np.uint8]) -> Floats:
        """`score_QN` of every query over the split's products; pixels are those of the whole snapshot."""
        images = embed_pixels(model, pixels, model.device, rows=self._rows)
        return ClipEncoder(model).encode_texts(self.texts) @ images.T

    def name_scores(self, model: ClipModel, image_QN: Floats) -> Floats:
        """The same over the products' names; a product without one has its picture's score, as in a release."""
        encoder = ClipEncoder(model)
        name_ND = encode_names(encoder, self.gallery)[0].astype(np.float32)
        return np.where(named(self.gallery), encoder.encode_texts(self.texts) @ name_ND.T, image_QN)

    def evaluate(self, score_QN: Floats) -> Evaluation:
        """The protocol's figures of these scores."""
        return evaluate(self.queries, rank(score_QN, self.gallery.product_id, k=DEPTH))

    def quality(self, score_QN: Floats) -> float:
        """mAP@10 over specific and type queries together; 0 where the split has no query."""
        return float(ap_at_10_of_scores(score_QN, self._relevant_QN).mean()) if self.queries else 0.0

    def ap_of_rankings(self, rankings: Sequence[Ranking]) -> NDArray[np.float64]:
        """AP@10 of each query, for rankings that a searcher made."""
        return np.array([result.ap_at_10 for result in evaluate(self.queries, rankings).results])

    def quality_of_rankings(self, rankings: Sequence[Ranking]) -> float:
        """mAP@10 of such rankings; 0 where the split has no query."""
        return float(self.ap_of_rankings(rankings).mean()) if self.queries else 0.0


def figures_of(evaluation: Evaluation, *, prefix: str) -> dict[str, float]:
    """Metric keys of an evaluation, e.g. `val_map_at_10` and `val_map_at_10/Topwear`."""
    figures = {f"{prefix}_map_at_10": evaluation.map_at_10, f"{prefix}_category_spread": evaluation.category_spread()}
    for kind in (QueryKind.SPECIFIC, QueryKind.TYPE):
        values = evaluation.of_kind(kind)
        if values.num_queries:
            figures[f"{prefix}_map_at_10_{kind.value}"] = values.map_at_10
    figures |= {f"{prefix}_map_at_10/{name}": values.map_at_10 for name, values in evaluation.by_category().items()}
    return figures
