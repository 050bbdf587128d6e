"""Other assignments to splits: what belongs together stays together, and galleries share nothing."""

import numpy as np

from enclip.records import Product, Products, Split
from enclip.studies.folds import rotated

FOLDS = range(1, 5)
LINKED = 6


def catalog(count: int = 400, **linking: str) -> Products:
    """Products of a group each; the first six have a picture or a name in common, if anything links them."""
    return Products.from_rows(
        [
            Product(
                f"p{row:03d}",
                linking.get("name", f"Thing {row}") if row < LINKED else f"Thing {row}",
                linking.get("image_sha256", f"{row:064x}") if row < LINKED else f"{row:064x}",
                group_id=f"g{row:03d}",
                split=Split.ASIDE if row == 9 else Split.TRAIN,
            )
            for row in range(count)
        ]
    )


def test_every_product_is_in_some_gallery_and_none_in_two() -> None:
    products = catalog()
    assert rotated(products, 0) is products
    splits = np.stack([rotated(products, fold).split for fold in FOLDS])
    assert (splits[:, 9] == Split.ASIDE).all()
    times = np.isin(splits, (Split.SELECT, Split.GATE)).sum(axis=0)
    assert (np.delete(times, 9) == 1).all()
    for fold in splits:
        assert 0.05 < np.mean(fold == Split.SELECT) < 0.15 < 0.2 < 0.1 + np.mean(fold == Split.GATE) < 0.3


def test_groups_that_share_a_picture_or_a_name_are_not_parted() -> None:
    """An ingest leaves two groups of one split as they are when a newcomer links them."""
    alone = [set(rotated(catalog(), fold).split[:LINKED]) for fold in FOLDS]
    assert max(map(len, alone)) > 1, "without a link some fold parts them"
    for link in ({"name": "The same dress"}, {"image_sha256": "f" * 64}):
        for fold in FOLDS:
            assert len(set(rotated(catalog(**link), fold).split[:LINKED])) == 1
