"""Which changes of a release's answers its canary queries let pass."""

import io
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from enclip.errors import QueryError, ReleaseError
from enclip.pipeline.canary import CANARY, Canaries, Canary, Expected
from enclip.records import Hit, Product, Products, Ranking

TEN = tuple(f"p{place}" for place in range(10))


@dataclass
class Answers:
    """A release that says what the test tells it to."""

    by_query: dict[Any, tuple[str, ...]]
    products: Products = field(default_factory=lambda: shop(3))
    asked: list[dict[str, Any]] = field(default_factory=list)

    def search(self, *, text: str | None, image: bytes | None, like: str | None, k: int) -> Ranking:
        self.asked.append({"text": text, "image": image, "like": like, "k": k})
        found = self.by_query.get(text or image or like, TEN)
        if not found:
            raise QueryError("The embeddings are not finite.")
        return Ranking(tuple(Hit(product_id, 1 - place / 10, 0) for place, product_id in enumerate(found[:k])))


def shop(count: int) -> Products:
    rows = [
        Product(f"p{row:03}", f"Shirt {row}", f"{row % 7:064x}", "Men", "Apparel", "Topwear", "Shirts", "Blue")
        for row in range(count)
    ]
    return Products.from_rows(rows)


def picture(sha256: str) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (600, 800), (int(sha256, 16) * 30, 0, 0)).save(buffer, "PNG")
    return buffer.getvalue()


def canary(**asked: Any) -> Canary:
    return Canary(**asked, expected=tuple(Expected(product_id=name, score=0.5) for name in TEN))


def lost(count: int) -> tuple[str, ...]:
    return TEN[: 10 - count] + tuple(f"x{place}" for place in range(count))


WORDS = Canaries(queries=tuple(canary(text=text) for text in ("red shirt", "bag", "watch", "cap")))


def test_a_query_that_finds_nothing_is_no_canary() -> None:
    """Nothing is like the only product of a shop."""

    class Alone(Answers):
        def search(self, *, text: str | None, image: bytes | None, like: str | None, k: int) -> Ranking:
            found = super().search(text=text, image=image, like=like, k=k)
            return Ranking(()) if like else Ranking(found.hits[:1])

    alone = Alone({}, products=shop(1))
    made = Canaries.of(alone, picture, pixel_side=32)
    assert {query.kind for query in made.queries} == {"words", "pictures"}
    made.check(alone)


def test_the_same_answers_pass_in_whatever_order_they_come() -> None:
    WORDS.check(Answers({"bag": TEN[::-1]}))


def test_one_swapped_neighbour_a_query_passes_and_one_more_does_not() -> None:
    answers = {text: lost(1) for text in ("red shirt", "bag", "watch", "cap")}
    WORDS.check(Answers(answers))
    with pytest.raises(ReleaseError, match="canary queries by words find 88% of what they found"):
        WORDS.check(Answers(answers | {"bag": lost(2)}))


def test_a_refusal_names_the_worst_query_with_what_it_was_to_find_and_found() -> None:
    with pytest.raises(ReleaseError) as caught:
        WORDS.check(Answers({"bag": lost(3), "red shirt": lost(10)}))
    assert "“red shirt” was to find p0, p1, p2… and found x0, x1, x2…" in str(caught.value).lower()
    assert "rollback" in caught.value.remedy


def test_few_pictures_do_not_hide_behind_many_words() -> None:
    """Of 21 queries one is wrong: 95% overall."""
    words = tuple(canary(text=f"query {number}") for number in range(20))
    both = Canaries(queries=(*words, canary(image=b"picture")))
    with pytest.raises(ReleaseError, match="canary queries by pictures find 0%"):
        both.check(Answers({b"picture": lost(10)}))


def test_a_query_that_is_not_answered_refuses() -> None:
    with pytest.raises(ReleaseError, match="canary query “bag” is not answered: The embeddings are not finite"):
        WORDS.check(Answers({"bag": ()}))


def test_an_answer_cut_short_counts_what_is_missing() -> None:
    with pytest.raises(ReleaseError, match="find 50%"):
        WORDS.check(Answers(dict.fromkeys(("red shirt", "bag", "watch", "cap"), TEN[:5])))


def test_they_ask_for_words_pictures_and_products_and_are_the_same_each_time(tmp_path: Path) -> None:
    release = Answers({}, products=shop(60))
    made = Canaries.of(release, picture, pixel_side=64)
    kinds = [query.kind for query in made.queries]
    assert {kind: kinds.count(kind) for kind in kinds} == {"words": 16, "pictures": 4, "products": 4}
    assert {asked["k"] for asked in release.asked} == {10}
    assert "Men Blue Shirts" in {query.text for query in made.queries}
    assert all(Image.open(io.BytesIO(query.image)).size == (64, 64) for query in made.queries if query.image)
    assert made == Canaries.of(release, picture, pixel_side=64)
    made.save(tmp_path)
    assert Canaries.load(tmp_path) == made
    assert (tmp_path / CANARY).stat().st_size < 50_000


@pytest.mark.parametrize(("num_products", "depth"), [(1, 1), (8, 2), (39, 9), (40, 10)])
def test_of_a_small_catalog_fewer_results_count(num_products: int, depth: int) -> None:
    """Ten of eleven products would be found by any release."""
    made = Canaries.of(Answers({}, products=shop(num_products)), picture, pixel_side=32)
    assert {len(query.expected) for query in made.queries} == {depth}


def test_a_catalog_without_attributes_is_asked_for_names_alone() -> None:
    bare = Products.from_rows([Product(f"p{row:03}", f"Thing {row}", f"{row:064x}") for row in range(50)])
    made = Canaries.of(Answers({}, products=bare), picture, pixel_side=32)
    texts = [query.text for query in made.queries if query.text]
    assert len(texts) == 16
    assert set(texts) <= set(bare.name)


def test_a_file_that_is_none_is_said_to_be(tmp_path: Path) -> None:
    (tmp_path / CANARY).write_text('{"format": 2, "queries": []}')
    with pytest.raises(ReleaseError, match=CANARY):
        Canaries.load(tmp_path)
