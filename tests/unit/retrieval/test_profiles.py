"""What clusters hold: counted by hand on a shop of nine products, with and without labels, map and withdrawals."""

import numpy as np
import pytest

from enclip.records import Product, Products
from enclip.retrieval.atlas import Atlas
from enclip.retrieval.audit import Suspect, load_suspects, save_suspects
from enclip.retrieval.clusters import Clusters
from enclip.retrieval.profiles import Profiles

ROWS = (  # cluster, gender, category, type, colour, closeness, across, up
    (0, "Men", "Shoes", "Casual Shoes", "Black", 0.9, -0.5, 0.0),
    (0, "Men", "Shoes", "Casual Shoes", "Brown", 0.7, -0.4, 0.1),
    (0, "Women", "Shoes", "Heels", "Black", 0.8, -0.6, -0.1),
    (0, "Men", "Bags", "Handbags", "Black", 0.6, 0.9, 0.9),
    (1, "Women", "Bags", "Handbags", "Red", 0.5, 0.5, 0.5),
    (1, "Men", "Belts", "Belts", "Black", 0.5, 0.5, 0.5),
    (1, "", "", "", "", 0.9, 0.5, 0.5),
    (3, "", "", "", "", 1.0, 0.0, 0.0),
    (3, "", "", "", "", 1.0, 0.0, 0.0),
)
ATLAS = Atlas(np.array([row[6:] for row in ROWS], np.float32))


def suspect(row: int, *, confidence: float, attribute: str = "article_type") -> Suspect:
    return Suspect(
        product_id=f"p{row}",
        name="",
        attribute=attribute,
        given="A",
        proposed="B",
        confidence=confidence,
        support=0.8,
        given_support=0.1,
        cluster=0,
        cluster_size=4,
        purity=0.75,
        evidence=("p0",),
    )


SUSPECTS = (
    suspect(5, confidence=0.99),
    suspect(3, confidence=0.95),
    suspect(3, confidence=0.92, attribute="gender"),
    suspect(0, confidence=0.91),
)


@pytest.fixture
def profiles() -> Profiles:
    """Four clusters, the third of them empty."""
    products = Products.from_rows(
        [
            Product(f"p{number}", "", "", gender=gender, sub_category=category, article_type=kind, base_colour=colour)
            for number, (_, gender, category, kind, colour, *_) in enumerate(ROWS)
        ]
    )
    clusters = Clusters(np.array([row[0] for row in ROWS], np.int32), np.eye(4, dtype=np.float32))
    return Profiles(products, clusters, np.array([row[5] for row in ROWS], np.float32), ATLAS, SUSPECTS)


def allowed(*without: int) -> np.ndarray:
    mask = np.ones(len(ROWS), bool)
    mask[list(without)] = False
    return mask


def test_a_cluster_is_counted_and_named_by_what_most_of_it_is(profiles):
    shoes, mixed, unlabelled = profiles.of()
    assert (shoes.cluster, shoes.num_products, shoes.category, shoes.purity) == (0, 4, "Shoes", 0.75)
    assert shoes.name == "Men Black Shoes", "two of four are Casual Shoes: no majority, so their category names them"
    assert shoes.types == (("Casual Shoes", 2), ("Handbags", 1), ("Heels", 1))
    assert shoes.colours == (("Black", 3), ("Brown", 1))
    assert shoes.tightness == pytest.approx(0.75) and shoes.num_suspects == 2
    assert shoes.centre == pytest.approx((-0.45, 0.05)), "a stray does not pull it away"
    assert (mixed.name, mixed.purity, mixed.num_products) == ("Belts, Handbags", 0.5, 3)
    assert (unlabelled.cluster, unlabelled.name, unlabelled.category, unlabelled.purity) == (3, "Cluster 3", "", None)


def test_what_is_withdrawn_is_not_counted(profiles):
    (shoes, mixed) = profiles.of(allowed(0, 3, 7, 8))
    assert (shoes.num_products, shoes.purity, shoes.num_suspects) == (2, 1.0, 0)
    assert shoes.name == "Shoes", "one man and one woman, one brown and one black: no majority"
    assert (mixed.cluster, mixed.num_suspects) == (1, 1)
    assert profiles.of(np.zeros(len(ROWS), bool)) == ()


def test_products_come_nearest_to_the_centre_first(profiles):
    assert profiles.rows(0).tolist() == [0, 2, 1, 3]
    assert profiles.rows(1).tolist() == [6, 4, 5], "equally near: by product_id"
    assert profiles.rows(2).tolist() == []
    assert profiles.rows(0, allowed(2)).tolist() == [0, 1, 3]
    assert profiles.closeness(1) == pytest.approx(0.7)


def test_suspects_come_surest_first_and_a_product_once(profiles):
    assert profiles.suspect_rows().tolist() == [5, 3, 0]
    assert profiles.suspect_rows(allowed(3)).tolist() == [5, 0]
    assert [one.attribute for one in profiles.suspects(3)] == ["article_type", "gender"]
    assert profiles.suspects(1) == ()


def test_without_a_map_and_an_audit_there_are_still_clusters(shop):
    clusters = Clusters(np.zeros(len(shop.products), np.int32), np.ones((1, 3), np.float32))
    (whole,) = Profiles(shop.products, clusters, np.ones(len(shop.products), np.float32)).of()
    assert (whole.num_products, whole.num_suspects, whole.centre) == (400, 0, None)
    assert whole.types[0] == ("Casual Shoes", 67) and len(whole.types) == 4


def test_suspects_are_read_as_they_were_written(tmp_path):
    from enclip.errors import ReleaseError

    save_suspects(SUSPECTS, tmp_path / "suspects.json")
    assert load_suspects(tmp_path / "suspects.json") == SUSPECTS
    (tmp_path / "suspects.json").write_text('[{"product_id": 3}]')
    with pytest.raises(ReleaseError, match=r"suspects\.json"):
        load_suspects(tmp_path / "suspects.json")
