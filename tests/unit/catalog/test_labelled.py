"""A folder of pictures sorted into sub-folders by label is a catalog."""

import os
from pathlib import Path

import pytest

from enclip.blobs import FileBlobs
from enclip.catalog.columns import MAX_ID, RawRow
from enclip.catalog.ingest import ingest
from enclip.catalog.read import LabelledSource, open_source
from enclip.catalog.store import CatalogStore
from enclip.errors import CatalogError, ConfigError, ImageError
from enclip.records import Rejection

from .conftest import picture, row, write_catalog


def folder_of(root: Path, *places: str) -> Path:
    """Each place holds a picture of its own."""
    for number, place in enumerate(places):
        (root / place).parent.mkdir(parents=True, exist_ok=True)
        (root / place).write_bytes(picture(number))
    return root


def rows_of(root: Path) -> list[RawRow | Rejection]:
    return list(open_source(str(root)).rows())


def test_the_sub_folder_is_the_type_and_the_file_the_product(tmp_path: Path) -> None:
    folder_of(tmp_path, "Shirts/blue-striped_2.jpg", "casual_shoes/one two.PNG", "Shirts/0042.webp")
    source = open_source(str(tmp_path))
    assert isinstance(source, LabelledSource) and source.name == str(tmp_path) and source.num_rows() == 3
    rows = [item for item in source.rows() if isinstance(item, RawRow)]
    assert [(item.row, item.product.product_id, item.product.name, item.product.article_type) for item in rows] == [
        (1, "Shirts/0042.webp", "", "Shirts"),
        (2, "Shirts/blue-striped_2.jpg", "Shirts blue striped", "Shirts"),
        (3, "casual_shoes/one%20two.PNG", "casual shoes one two", "casual shoes"),
    ]
    assert [source.image(item) for item in rows] == [picture(2), picture(0), picture(1)]


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("IMG_0042.jpg", ""),
        ("DSC0042 (2).jpg", ""),
        ("3f2ab91c77de01ff.jpg", ""),
        ("shirts 7.jpg", ""),  # the label once more
        ("blue shirts 7.jpg", "blue shirts"),
        ("oxford01.jpg", "Shirts oxford"),
        ("赤い.jpg", "Shirts 赤い"),
        ("of a.jpg", ""),
    ],
)
def test_a_name_is_made_of_words_alone(tmp_path: Path, file: str, name: str) -> None:
    folder_of(tmp_path, f"Shirts/{file}")
    (item,) = rows_of(tmp_path)
    assert isinstance(item, RawRow) and item.product.name == name


def test_what_is_no_picture_is_passed_over_and_what_lies_elsewhere_is_set_aside(tmp_path: Path) -> None:
    folder_of(tmp_path, "Shirts/1.jpg", "Shirts/more/2.jpg", "loose.jpg", ".cache/3.jpg", "Shirts/.4.jpg")
    (tmp_path / "Shirts" / "Thumbs.db").write_bytes(b"x")
    (tmp_path / "empty").mkdir()
    assert [item.row for item in rows_of(tmp_path)] == [1, 2, 3]
    assert [(item.product_id, item.reason) for item in rows_of(tmp_path) if isinstance(item, Rejection)] == [
        ("loose.jpg", "loose.jpg lies in no sub-folder that would be its label"),
        ("Shirts/more", "Shirts/more lies deeper than LABEL/picture"),
    ]


def test_ids_hold_no_space_are_short_and_differ(tmp_path: Path) -> None:
    long = "x" * 120
    folder_of(tmp_path, "a b/c.jpg", "a%20b/c.jpg", f"long/{long}1.jpg", f"long/{long}2.jpg", "a b/c.png")
    ids = [item.product.product_id for item in rows_of(tmp_path) if isinstance(item, RawRow)]
    assert len(set(ids)) == 5 and "a%20b/c.jpg" in ids and "a%2520b/c.jpg" in ids
    assert all(len(product_id) <= MAX_ID and not any(char.isspace() for char in product_id) for product_id in ids)


def test_names_that_are_no_text_are_set_aside(tmp_path: Path) -> None:
    folder_of(tmp_path, "Shirts/1.jpg", "Shirts/\x1b[31m.jpg")
    try:
        Path(os.fsdecode(bytes(tmp_path) + b"/Shirts/\xff.jpg")).write_bytes(picture(1))
    except OSError:
        pytest.skip("this file system takes UTF-8 alone")
    rejected = [item for item in rows_of(tmp_path) if isinstance(item, Rejection)]
    assert [item.product_id for item in rejected] == ["Shirts/\ufffd[31m.jpg", "Shirts/\ufffd.jpg"]
    assert all("cannot be shown" in item.reason for item in rejected)


def test_links_that_lead_out_of_the_folder_are_no_pictures(tmp_path: Path) -> None:
    root = folder_of(tmp_path / "shop", "Shirts/1.jpg")
    (tmp_path / "secret.jpg").write_bytes(picture(9))
    (root / "Shirts" / "2.jpg").symlink_to(tmp_path / "secret.jpg")
    source = open_source(str(root))
    rows = [item for item in source.rows() if isinstance(item, RawRow)]
    assert source.image(rows[0]) == picture(0)
    with pytest.raises(ImageError, match="leads out"):
        source.image(rows[1])


@pytest.mark.parametrize(
    "places", [(), ("loose.jpg",), ("train/Shirts/1.jpg",), ("images/1.jpg",)], ids=["empty", "flat", "deep", "images"]
)
def test_a_folder_without_labels_is_one_error_that_names_both_layouts(tmp_path: Path, places: tuple[str, ...]) -> None:
    folder_of(tmp_path, *places)
    with pytest.raises(CatalogError, match=r"No catalog at .*styles\.csv is missing.*LABEL/picture\.jpg") as raised:
        open_source(str(tmp_path))
    assert str(tmp_path) in raised.value.what


def test_a_table_comes_before_labels_and_only_a_table_has_columns(tmp_path: Path) -> None:
    write_catalog(tmp_path / "table", [row(1)])
    folder_of(tmp_path / "table", "Shirts/1.jpg")
    assert [item.product.product_id for item in rows_of(tmp_path / "table") if isinstance(item, RawRow)] == ["1"]
    folder_of(tmp_path / "labels", "Shirts/1.jpg")
    with pytest.raises(CatalogError, match=r"styles\.csv is missing"):
        open_source(str(tmp_path / "labels"), mapping={"name": "title"})
    with pytest.raises(ConfigError, match="titel"):
        open_source(str(tmp_path / "labels"), mapping={"titel": "name"})


def test_labelled_pictures_become_products_in_several_splits(
    tmp_path: Path, sqlite_store: CatalogStore, blobs: FileBlobs
) -> None:
    places = [f"{label}/IMG_{number:03d}.jpg" for label in ("Shirts", "Bags") for number in range(30)]
    root = folder_of(tmp_path / "shop", *places, "Shirts/broken.jpg")
    (root / "Shirts" / "broken.jpg").write_bytes(b"no picture")
    report = ingest(open_source(str(root)), sqlite_store, blobs)
    assert (report.accepted, report.rejected) == (60, 1)
    products = sqlite_store.products()
    assert set(products.article_type) == {"Shirts", "Bags"}
    assert len(set(products.group_id)) == 60, "pictures of one label are different products"
    again = ingest(open_source(str(root)), sqlite_store, blobs, mode="full")
    assert (again.accepted, again.unchanged, again.gone) == (0, 60, 0)
    (root / "Bags" / "IMG_003.jpg").unlink()
    assert ingest(open_source(str(root)), sqlite_store, blobs, mode="full").gone == 1
