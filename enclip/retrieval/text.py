"""BM25 over product names: what vectors are compared with, and what a product's own name finds."""

from collections.abc import Sequence

import bm25s
import numpy as np

from enclip.errors import CatalogError, QueryError
from enclip.records import Floats, Products, Ranking
from enclip.retrieval import ranking
from enclip.retrieval.filters import Mask


class NameIndex:
    """BM25 (Lucene's variant, bm25s) over `name` alone; attributes would answer the qrels they make."""

    def __init__(self, products: Products) -> None:
        self._products = products
        # Ids of our own making: bm25s' default vocabulary adds an empty token for names without words.
        self._word_ids: dict[str, int] = {}
        corpus = [
            [self._word_ids.setdefault(word, len(self._word_ids)) for word in words(name)] for name in products.name
        ]
        if not self._word_ids:
            raise CatalogError("No product of the catalog has a name.", remedy="Map a column with --map name=COLUMN.")
        self._model = bm25s.BM25(method="lucene")
        self._model.index((corpus, self._word_ids), show_progress=False)

    def scores(self, texts: Sequence[str]) -> Floats:
        """`score_QN`; 0 where no word matches."""
        score_QN = np.zeros((len(texts), len(self._products)), np.float32)
        for row, text in enumerate(texts):
            known = [self._word_ids[word] for word in words(text) if word in self._word_ids]
            if known:
                score_QN[row] = self._model.get_scores_from_ids(known)
        return score_QN

    def search(self, texts: Sequence[str], *, k: int, allowed: Mask | None = None) -> list[Ranking]:
        """The best k products per text among those with at least one of its words."""
        if k < 1:
            raise QueryError(f"k is {k}.", remedy="Ask for at least one result.")
        rankings: list[Ranking] = []
        for score_N in self.scores(texts):
            matching = score_N > 0 if allowed is None else (score_N > 0) & allowed
            scores_1N = np.where(matching, score_N, -np.inf)[None]
            rankings += ranking.rank(scores_1N, self._products.product_id, k=k)
        return rankings


def words(text: str) -> list[str]:
    """Lower-case words of letters and digits, a plural s taken off ("Shirts" meets "Shirt")."""
    spaced = "".join(letter if letter.isalnum() else " " for letter in text.casefold())
    return [
        word[:-1] if len(word) > 3 and word.endswith("s") and not word.endswith("ss") else word
        for word in spaced.split()
    ]
