"""The words of many requests, encoded together: one pass through the text towers for all that wait."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from weakref import WeakKeyDictionary

from anyio import CapacityLimiter, Event, Lock, to_thread

from enclip.serving.follow import OpenRelease

NUM_THREADS = 2  # so that a release that is compared does not hold back the one that is served
MAX_TEXTS = 64  # a pass: more of them would only make the first wait for the last


@dataclass(eq=False)
class _Pass:
    texts: set[str] = field(default_factory=set)
    over: Event = field(default_factory=Event)
    learnt: bool = False


class TextPasses:
    """Texts are collected while the pass before is under way, and then go through the towers at once.

    Nobody waits for company: a text that comes alone is encoded alone, at once.

    Args:
        observe: told how many texts each pass had.
    """

    def __init__(self, observe: Callable[[int], None]) -> None:
        self._observe = observe
        self._collecting: dict[OpenRelease, _Pass] = {}
        self._turns: WeakKeyDictionary[OpenRelease, Lock] = WeakKeyDictionary()  # one pass of a release at a time
        self._threads = CapacityLimiter(NUM_THREADS)
        self._num_waiting = 0

    @property
    def num_waiting(self) -> int:
        """Requests whose words are not encoded yet."""
        return self._num_waiting

    async def learn(self, release: OpenRelease, texts: Iterable[str]) -> None:
        """Return when a release knows the texts, or when learning them failed: then a search says why."""
        texts = list(texts)
        self._num_waiting += 1
        try:
            for start in range(0, len(texts), MAX_TEXTS):
                await self._learn(release, texts[start : start + MAX_TEXTS])
        finally:
            self._num_waiting -= 1

    async def _learn(self, release: OpenRelease, texts: Sequence[str]) -> None:
        while (joined := self._collecting.get(release)) and len(joined.texts) + len(texts) <= MAX_TEXTS:
            joined.texts.update(texts)
            await joined.over.wait()
            if joined.learnt:
                return
        own = self._collecting[release] = _Pass(set(texts))
        try:
            async with self._turns.setdefault(release, Lock()):
                self._close(release, own)
                self._observe(len(own.texts))
                await to_thread.run_sync(release.learn_texts, sorted(own.texts), limiter=self._threads)
                own.learnt = True
        finally:
            # Where this request has given up, or its tower has failed, those who joined make a pass without it.
            self._close(release, own)
            own.over.set()

    def _close(self, release: OpenRelease, own: _Pass) -> None:
        if self._collecting.get(release) is own:
            del self._collecting[release]
