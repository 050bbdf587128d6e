"""Words that were asked for before are not encoded again, and what is remembered goes with its release."""

import gc
import weakref
from dataclasses import replace

import numpy as np

from enclip.pipeline.open_release import FEW, OpenRelease
from enclip.records import Encoder, Floats
from tests.serving.service_world import ReleaseMaker


class Counting:
    """A real encoder that keeps what it was asked to encode."""

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder
        self.asked: list[list[str]] = []

    @property
    def dim(self) -> int:
        return self._encoder.dim

    def encode_images(self, pixels: object) -> Floats:
        return self._encoder.encode_images(pixels)

    def encode_texts(self, texts: list[str]) -> Floats:
        self.asked.append(list(texts))
        return self._encoder.encode_texts(texts)


def test_a_search_asked_twice_encodes_its_words_once(release: OpenRelease) -> None:
    counting = Counting(release.encoders[0])
    counted = replace(release, encoders=(counting,))
    first = counted.search(text="navy blue shirt", without="red")
    assert (
        counted.search(text="navy blue shirt", without="red")
        == first
        == release.search(text="navy blue shirt", without="red")
    )
    assert counting.asked == [["navy blue shirt", "red"]], "in one pass"


def test_many_texts_at_once_are_encoded_together_and_not_kept(release: OpenRelease) -> None:
    counting = Counting(release.encoders[0])
    counted = replace(release, encoders=(counting,))
    texts = [f"text {number}" for number in range(FEW + 1)]
    (together,) = counted.encode_texts(texts)
    (again,) = counted.encode_texts(texts)
    np.testing.assert_array_equal(together, again)
    assert counting.asked == [texts, texts]


def test_a_release_that_is_let_go_is_gone(make_release: ReleaseMaker) -> None:
    opened = make_release(9, seed=9)
    opened.search(text="shirt")
    seen = weakref.ref(opened.searcher)
    gc.collect()
    gc.disable()
    try:
        del opened
        assert seen() is None, "nothing that it remembered holds it"
    finally:
        gc.enable()
