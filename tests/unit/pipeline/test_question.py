"""What is asked for becomes one query a member, checked by hand."""

import numpy as np
import pytest

from enclip.errors import QueryError
from enclip.pipeline.question import TURN_FROM_KNOWN, TURN_FROM_OTHERS, Question
from enclip.records import Floats

RED, SHIRT, PICTURE, SHOE = np.eye(4, dtype=np.float32)
WORDS = {"red": RED, "shirt": SHIRT}


def block(vector: Floats) -> list[Floats]:
    """Of two members that see alike."""
    return [vector[None], vector[None]]


def blocks(question: Question, *, turn: float = TURN_FROM_KNOWN) -> list[Floats]:
    parts = question.parts(
        words=lambda texts: [np.stack([WORDS[text] for text in texts])] * 2,
        picture=lambda image: block(PICTURE),
        product=lambda product_id: block(SHOE),
    )
    return question.mixed(parts, turn=turn)


def unit(vector: Floats) -> Floats:
    return vector / np.linalg.norm(vector)


def test_parts_are_mixed_by_their_weights() -> None:
    question = Question("red", b"picture", "shoe", weights={"text": 2, "image": 1, "like": 3})
    for found in blocks(question):
        np.testing.assert_allclose(found[0], unit(2 * RED + PICTURE + 3 * SHOE), atol=1e-6)
    assert question.word_share == pytest.approx(2 / 3 * 2 / 3)
    assert Question("red", like="shoe").word_share == 1.0, "a product that weighs no more takes nothing from words"
    assert Question("red", like="shoe", weights={"text": 1, "like": 4}).word_share == pytest.approx(0.25)


def test_the_weight_of_what_is_not_given_changes_nothing() -> None:
    question = Question("red", weights={"text": 1, "image": 5})
    np.testing.assert_allclose(blocks(question)[0][0], RED)
    assert question.word_share == 1.0
    assert Question(like="shoe").word_share == 0.0


@pytest.mark.parametrize("turn", [TURN_FROM_KNOWN, TURN_FROM_OTHERS])
def test_it_turns_from_words_by_a_share_of_what_is_asked_for(turn: float) -> None:
    (found, _) = blocks(Question("shirt", without="red"), turn=turn)
    np.testing.assert_allclose(found[0], unit(SHIRT - turn * RED), atol=1e-6)


def test_how_far_it_turns_does_not_depend_on_how_weights_are_scaled() -> None:
    one, ten = (Question("shirt", like="shoe", without="red", weights={"text": w, "like": w}) for w in (1, 10))
    np.testing.assert_allclose(blocks(one)[0], blocks(ten)[0], atol=1e-6)


@pytest.mark.parametrize("scale", [1e-7, 1e20])
def test_only_the_ratio_of_weights_matters(scale: float) -> None:
    one, other = (Question("shirt", like="shoe", weights={"text": w, "like": 3 * w}) for w in (1.0, scale))
    np.testing.assert_allclose(blocks(one)[0], blocks(other)[0], atol=1e-6)
    assert one.word_share == pytest.approx(other.word_share)


def test_a_product_alone_can_be_turned_from_words() -> None:
    (found, _) = blocks(Question(like="shoe", without="red"))
    np.testing.assert_allclose(found[0], unit(SHOE - TURN_FROM_KNOWN * RED), atol=1e-6)


@pytest.mark.parametrize(
    "parts, message",
    [
        ({}, "needs words, a picture or a product"),
        ({"without": "red"}, "needs words, a picture or a product"),
        ({"text": "a" * 1001}, "1001 characters"),
        ({"text": "a", "without": "b" * 1001}, "1001 characters"),
        ({"text": "a", "weights": {"text": 0}}, "leave nothing"),
        ({"text": "a", "weights": {"text": -1}}, "at least 0"),
        ({"text": "a", "weights": {"text": float("nan")}}, "at least 0"),
        ({"text": "a", "weights": {"name": 1}}, "'text', 'image' and 'like'"),
    ],
)
def test_what_cannot_be_asked_is_one_clear_error(parts: dict, message: str) -> None:
    with pytest.raises(QueryError, match=message):
        Question(**parts)
