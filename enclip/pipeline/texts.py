"""Words that were asked for lately, as the members see them: who asks again does not wait for a tower."""

import threading
from collections.abc import Callable, Iterable, Sequence

import numpy as np
from cachetools import LRUCache

from enclip.records import Floats

REMEMBERED = 4096  # texts, of some kilobytes each


class KnownTexts:
    """Remembers the embeddings of the texts asked for last. Safe to call from several threads.

    Args:
        encode: texts → per member `embedding_QD`.
    """

    def __init__(self, encode: Callable[[Sequence[str]], list[Floats]]) -> None:
        self._encode = encode
        self._lock = threading.Lock()
        self._known: LRUCache[str, list[Floats]] = LRUCache(REMEMBERED)

    def embeddings(self, texts: Sequence[str]) -> list[Floats]:
        """Per member `embedding_QD`; what is not known is encoded in one pass, and known from then on."""
        found = self._found(texts)
        unknown = [text for text in dict.fromkeys(texts) if text not in found]
        if unknown:
            blocks = self._encode(unknown)
            # Copies: a row of a block would keep the whole block in memory.
            learnt = {text: [block[row : row + 1].copy() for block in blocks] for row, text in enumerate(unknown)}
            with self._lock:
                self._known.update(learnt)
            found |= learnt
        return [np.concatenate(of_member) for of_member in zip(*(found[text] for text in texts), strict=True)]

    def unknown(self, texts: Iterable[str]) -> list[str]:
        """Those that would have to be encoded."""
        with self._lock:
            return [text for text in texts if text not in self._known]

    def _found(self, texts: Sequence[str]) -> dict[str, list[Floats]]:
        with self._lock:
            return {text: self._known[text] for text in texts if text in self._known}
