"""BM25 over product names: what vectors are fused and compared with, and what a product's own name finds."""

import json
import logging
import re
import unicodedata
from collections.abc import Container, Sequence
from pathlib import Path

import bm25s
import numpy as np
from numpy.typing import NDArray

from enclip.errors import QueryError, ReleaseError
from enclip.records import Floats, Products, Ranking
from enclip.retrieval import ranking
from enclip.retrieval.filters import Mask, plain

Texts = Sequence[str | None]  # per query its words
NAMES = "names"  # a release's folder of bm25s' own files: arrays and JSON, no pickle
K1, B = 0.5, 0.3  # names are short, and hardly repeat a word: docs/decisions/0007
RULE, RULES = 3, "words.json"  # which `words` an index was made by; those from before it was written down are of 1

_JOINT = re.compile(r"(?<=\w)['’ʼ](?=\w)|(?<![\w'’ʼ‑-])([^\W\d_])[-‑](?=\w)")  # as in "men's", and in "T-shirt"
logging.getLogger("bm25s").setLevel(logging.WARNING)  # it tells of every index that it makes
_UNSEEN = dict.fromkeys((0x200C, 0x200D, 0xFE0E, 0xFE0F))  # joiners and variants, which people do not type
_ES = ("sse", "xe", "ze", "che", "she")  # what a plural s leaves of dresses, boxes, watches and brushes


class NameIndex:
    """BM25 (Lucene's variant, bm25s) over `name` alone; attributes would answer the qrels they make.

    Args:
        products: N products; of these, names and ids are read and nothing else.
        model: an index that was made of these names before; None: it is made now.
        k1, b: of an index that is made now.
    """

    def __init__(self, products: Products, model: "bm25s.BM25 | None" = None, *, k1: float = K1, b: float = B) -> None:
        self._product_id = products.product_id
        self._model = _indexed(products, k1, b) if model is None else model
        self._word_ids: dict[str, int] = self._model.vocab_dict
        # Lucene's idf: what a word can add to a score at most, however often a name repeats it.
        count_W = np.diff(self._model.scores["indptr"])
        self._idf_W = np.log1p((len(products) - count_W + 0.5) / (count_W + 0.5))

    def scores(self, texts: Sequence[str]) -> Floats:
        """`score_QN`; 0 where no word matches."""
        score_QN = np.zeros((len(texts), len(self._product_id)), np.float32)
        for row, text in enumerate(texts):
            known = self._known(text)
            if known:
                score_QN[row] = self._model.get_scores_from_ids(known)
        return score_QN

    def coverage(self, text: str) -> Floats:
        """`[N]`, 0 to below 1: BM25 over the most that a name could reach, the sum of the words' idf.

        Words that no name has are left out of both. Unlike a maximum over what was found, the bound belongs
        to the query alone: neither filters nor candidates change what a product scores.
        """
        known = self._known(text)
        if not known:
            return np.zeros(len(self._product_id), np.float32)
        return np.asarray(self._model.get_scores_from_ids(known) / self._idf_W[known].sum(), np.float32)

    def search(self, texts: Sequence[str], *, k: int, allowed: Mask | None = None) -> list[Ranking]:
        """The best k products per text among those with at least one of its words."""
        if k < 1:
            raise QueryError(f"k is {k}.", remedy="Ask for at least one result.")
        rankings: list[Ranking] = []
        for score_N in self.scores(texts):
            rankings += ranking.rank(_matching(score_N, allowed)[None], self._product_id, k=k)
        return rankings

    def over(self, products: Products) -> "NameIndex":
        """The same of other products."""
        return NameIndex(products, k1=self._model.k1, b=self._model.b)

    def save(self, folder: Path) -> None:
        """Write bm25s' own files into a folder, and by which rule words were read."""
        self._model.save(folder, show_progress=False)
        (folder / RULES).write_text(json.dumps({"rule": RULE}))

    @classmethod
    def load(cls, folder: Path, products: Products) -> "NameIndex":
        """The index of a folder; its arrays stay on disk, shared between processes.

        One that was made by another rule of reading words, as releases from before were, is made anew of the products'
        names, with its own k1 and b, to which its weight in the score belongs.

        Raises:
            ReleaseError: a file is missing, damaged, or of other products.
        """
        try:
            model = bm25s.BM25.load(folder, mmap=True)
            scores, k1, b = model.scores, float(model.k1), float(model.b)
            rule = json.loads((folder / RULES).read_bytes())["rule"] if (folder / RULES).exists() else 1
            last = max((model.vocab_dict[word] for word in model.vocab_dict if word), default=-1)
            fits = (
                scores["num_docs"] == len(products)
                and len(scores["indptr"]) > last + 1
                and len(scores["data"]) == len(scores["indices"]) == scores["indptr"][-1]
            )
        # Whatever its JSON and arrays may hold instead of an index.
        except (OSError, EOFError, ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
            raise ReleaseError(
                f"BM25 index {folder} cannot be read: {error}.", remedy="Fetch the release again."
            ) from error
        if not fits:
            raise ReleaseError(f"BM25 index {folder} is not over the release's {len(products)} products.")
        return cls(products, model if rule == RULE else None, k1=k1, b=b)

    @property
    def num_bytes(self) -> int:
        """Memory of the postings."""
        return sum(self._model.scores[part].nbytes for part in ("data", "indices", "indptr"))

    def _known(self, text: str) -> list[int]:
        return [self._word_ids[word] for word in letters_joined(words(text), self._word_ids) if word in self._word_ids]


def best_matches(score_N: Floats, *, num_rows: int, allowed: Mask | None = None) -> NDArray[np.int64]:
    """The rows of the best products among the allowed ones that are better than the worst of all, best first."""
    matching_N = _matching(score_N - score_N.min(initial=0), allowed)
    if len(matching_N) > num_rows:
        # What cannot be among them, once scores are rounded, need not be.
        least = np.partition(matching_N, len(matching_N) - num_rows)[len(matching_N) - num_rows]
        matching_N[matching_N < least - 2 * 10.0**-ranking.DECIMALS] = -np.inf
    return ranking.top(matching_N, num_rows)


def words(text: str) -> list[str]:
    """Lower-case words of letters and digits, in the singular: "Watches" meet "Watch", "Men's" meets "Men".

    A single letter before a hyphen is part of its word, as in "T-shirt" and "V-neck"; other hyphens part two words.
    Composed and decomposed letters are the same, and marks, as Hindi's vowels are, belong to their letter.
    """
    together = _JOINT.sub(r"\1", plain(text).translate(_UNSEEN))
    spaced = "".join(letter if letter.isalnum() or _is_mark(letter) else " " for letter in together)
    return [_singular(word) for word in spaced.split() if not _is_mark(word[0])]


def letters_joined(parts: Sequence[str], known: Container[str]) -> list[str]:
    """The same words, but single letters with the word behind them where that is known as one: "T shirt", "V neck"."""
    found: list[str] = []
    for word in parts:
        if found and len(found[-1]) == 1 and found[-1] + word in known:
            found[-1] += word
        else:
            found.append(word)
    return found


def word_shares(count: int, texts: Texts | None, text_shares: Sequence[float] | None) -> Floats:
    """`[Q]` float32: how much of each of `count` queries its words are; 0 where it has none."""
    texts = [None] * count if texts is None else texts
    if len(texts) != count or len(text_shares or texts) != count:
        raise QueryError(f"{len(texts)} texts for {count} queries; each query has one, or None.")
    worded_Q = np.array([bool(text and text.strip()) for text in texts], np.float32)
    return worded_Q if text_shares is None else worded_Q * np.clip(np.asarray(text_shares, np.float32), 0, 1)


def named(products: Products) -> Mask:
    """`[N]` bool: the products that have a name."""
    return np.array([bool(name.strip()) for name in products.name], dtype=bool)


def _is_mark(letter: str) -> bool:
    return unicodedata.category(letter)[0] == "M"


def _singular(word: str) -> str:
    if len(word) > 3 and word.endswith("s") and not word.endswith("ss"):
        word = word[:-1]
    return word[:-1] if word.endswith(_ES) else word  # of "size" too, as of "sizes"


def _indexed(products: Products, k1: float, b: float) -> "bm25s.BM25":
    names = [words(name) for name in products.name]
    known = {word for name in names for word in name}
    word_ids: dict[str, int] = {}  # ids of our own making: bm25s' would need its tokenizer
    corpus = [[word_ids.setdefault(word, len(word_ids)) for word in letters_joined(name, known)] for name in names]
    model = bm25s.BM25(method="lucene", k1=k1, b=b)
    with np.errstate(invalid="ignore"):  # without any word, a name's mean length is 0
        model.index((corpus, word_ids or {"": 0}), show_progress=False)
    return model


def _matching(score_N: Floats, allowed: Mask | None) -> Floats:
    matching = score_N > 0 if allowed is None else (score_N > 0) & allowed
    return np.where(matching, score_N, -np.inf).astype(np.float32)
