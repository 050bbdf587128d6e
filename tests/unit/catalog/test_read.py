"""Sources and rows: what real exports look like."""

import csv
import importlib.util
from pathlib import Path

import pytest

from enclip.catalog.read import RawRow, open_source
from enclip.catalog.rows import MAX_LINE_BYTES
from enclip.errors import CatalogError, ConfigError, ImageError
from enclip.records import Rejection

from .conftest import HEADER, picture, row, write_catalog

HEAD = ",".join(HEADER)
GOOD = "Men,Apparel,Topwear,Shirts,Blue,Fall,2025,Casual"


def _write(folder: Path, text: str | bytes, name: str = "styles.csv") -> Path:
    data = text if isinstance(text, bytes) else text.encode()
    (folder / name).write_bytes(data)
    return folder


def _read(folder: Path, **mapping: str) -> list[RawRow | Rejection]:
    return list(open_source(str(folder), mapping=mapping).rows())


def _products(folder: Path) -> dict[str, str]:
    return {item.product.product_id: item.product.name for item in _read(folder) if isinstance(item, RawRow)}


def test_unquoted_commas_belong_to_the_name(tmp_path: Path) -> None:
    _write(tmp_path, f"{HEAD}\n1,{GOOD},Shirt, long, blue\n2,{GOOD},Plain Shirt,\n")
    assert _products(tmp_path) == {"1": "Shirt, long, blue", "2": "Plain Shirt"}


def test_short_rows_and_empty_ids_are_set_aside_with_their_number(tmp_path: Path) -> None:
    _write(tmp_path, f"{HEAD}\n1,Men,Apparel\n\n,{GOOD},No id\n2,{GOOD},Good\n")
    items = _read(tmp_path)
    assert [(item.row, item.product_id) for item in items if isinstance(item, Rejection)] == [(1, "1"), (2, "")]
    assert isinstance(items[2], RawRow) and items[2].row == 3


def test_a_stray_quote_costs_nothing_but_itself(tmp_path: Path) -> None:
    lines = [
        f'{number},{GOOD},"Shirt {number}' if number == 2 else f"{number},{GOOD},Shirt {number}"
        for number in range(1, 60)
    ]
    _write(tmp_path, "\n".join([HEAD, *lines]))
    names = _products(tmp_path)
    assert len(names) == 59
    assert names["2"] == '"Shirt 2' and names["3"] == "Shirt 3"


def test_quoted_cells_may_hold_commas_quotes_and_line_ends(tmp_path: Path) -> None:
    _write(tmp_path, f'{HEAD}\n1,{GOOD},"Shirt, ""best""\r\nof 2025"\n2,{GOOD},6" Heels\n')
    assert _products(tmp_path) == {"1": 'Shirt, "best" of 2025', "2": '6" Heels'}


def test_two_encodings_a_byte_order_mark_and_nul_bytes(tmp_path: Path) -> None:
    text = b"\xef\xbb\xbf" + HEAD.encode() + b"\n"
    text += f"1,{GOOD},Béret\n".encode() + f"2,{GOOD},Béret\n".encode("latin-1") + f"3,{GOOD},Nul\0\n".encode()
    _write(tmp_path, text)
    assert _products(tmp_path) == {"1": "Béret", "2": "Béret"}
    assert _read(tmp_path)[2] == Rejection(3, "", "the row holds a NUL byte")


def test_a_row_without_end_is_set_aside(tmp_path: Path) -> None:
    _write(tmp_path, f"{HEAD}\n1,{GOOD},{'x' * (3 * MAX_LINE_BYTES)}\n2,{GOOD},{'y' * 5000}\n3,{GOOD},Good\n")
    items = _read(tmp_path)
    assert [type(item) for item in items] == [Rejection, Rejection, RawRow]


def test_empty_cells_have_many_spellings_and_years_pass_through_floats(tmp_path: Path) -> None:
    _write(tmp_path, f"{HEAD}\n1,Men,Apparel,NA,Shirts,nan,,2012.0,null,Shirt\n")
    item = _read(tmp_path)[0]
    assert isinstance(item, RawRow)
    product = item.product
    assert (product.sub_category, product.base_colour, product.season, product.usage) == ("", "", "", "")
    assert product.year == "2012" and product.category == "Shirts"


def test_other_column_names_other_delimiters_and_a_picture_column(tmp_path: Path) -> None:
    _write(tmp_path, "sku;title;file;Kind\nA1;Blue shirt;one.png;Shirts\n", "feed.csv")
    (tmp_path / "one.png").write_bytes(picture(1, form="PNG"))
    source = open_source(
        str(tmp_path / "feed.csv"), mapping={"id": "sku", "name": "title", "image": "file", "articleType": "kind"}
    )
    (item,) = source.rows()
    assert isinstance(item, RawRow)
    assert (item.product.product_id, item.product.name, item.product.article_type) == ("A1", "Blue shirt", "Shirts")
    assert source.image(item) == picture(1, form="PNG")


def test_only_an_id_and_one_of_name_and_article_type_are_needed(tmp_path: Path) -> None:
    _write(tmp_path, "id,articleType\n1,Shirts\n2,\n")
    first, second = _read(tmp_path)
    assert isinstance(first, RawRow) and first.product.name == ""
    assert second == Rejection(2, "2", "neither a name nor an articleType")


def test_missing_columns_are_one_error_that_shows_the_way(tmp_path: Path) -> None:
    _write(tmp_path, "sku,title\n1,Shirt\n")
    with pytest.raises(CatalogError, match=r"no column id and no productDisplayName or articleType.*--map id=sku"):
        _read(tmp_path)


def test_an_unknown_field_in_the_mapping_is_refused(tmp_path: Path) -> None:
    _write(tmp_path, HEAD)
    with pytest.raises(ConfigError, match="titel"):
        open_source(str(tmp_path), mapping={"titel": "name"})


@pytest.mark.parametrize("content", [b"", b"\n\n", "id,name\n".encode("utf-16")])
def test_what_is_no_table_is_one_error(tmp_path: Path, content: bytes) -> None:
    _write(tmp_path, content)
    with pytest.raises(CatalogError):
        _read(tmp_path)


def test_a_missing_folder_is_one_error(tmp_path: Path) -> None:
    with pytest.raises(CatalogError, match=r"styles\.csv is missing"):
        open_source(str(tmp_path / "nowhere"))


def test_pictures_may_have_several_endings_and_never_leave_the_folder(tmp_path: Path) -> None:
    shop = tmp_path / "shop"
    write_catalog(shop, [row(1), row(2)])
    (tmp_path / "secret.jpg").write_bytes(b"secret")
    (shop / "images" / "2.jpg").rename(shop / "images" / "2.webp")
    source = open_source(str(shop))
    first, second = source.rows()
    assert isinstance(first, RawRow) and isinstance(second, RawRow)
    assert source.image(first) == picture(1)
    assert source.image(second) == picture(2)
    (shop / "images" / "1.jpg").unlink()
    with pytest.raises(ImageError, match=r"no picture images/1\.jpg"):
        source.image(first)
    _write(shop, "id,productDisplayName,image\n../../secret,Up,\n1,Up,../secret.jpg\n2,Abs,/etc/passwd\n")
    up, mapped, absolute = open_source(str(shop)).rows()
    assert isinstance(up, RawRow)
    with pytest.raises(ImageError):
        open_source(str(shop)).image(up)
    assert isinstance(mapped, Rejection) and isinstance(absolute, Rejection)


@pytest.mark.parametrize("product_id", ["a b", "a\tb", "x" * 129])
def test_ids_that_could_not_stand_in_a_run_file_are_set_aside(tmp_path: Path, product_id: str) -> None:
    with open(tmp_path / "styles.csv", "w", newline="") as file:
        csv.writer(file).writerows([HEADER, [product_id, *GOOD.split(","), "Name"]])
    (item,) = _read(tmp_path)
    assert isinstance(item, Rejection) and "id" in item.reason


def test_rows_come_while_the_file_is_read(tmp_path: Path) -> None:
    """Memory stays flat: the first row is there before the end of the file has been looked at."""
    import tracemalloc

    with open(tmp_path / "styles.csv", "w") as file:
        file.write(HEAD + "\n")
        file.writelines(f"{number},{GOOD},Shirt {number}\n" for number in range(15_000))
    tracemalloc.start()
    count = sum(1 for _ in open_source(str(tmp_path)).rows())
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert count == 15_000
    assert peak < 500_000


@pytest.mark.skipif(importlib.util.find_spec("datasets") is not None, reason="the extra is installed")
def test_the_hub_without_its_extra_is_one_clear_error() -> None:
    with pytest.raises(CatalogError, match=r"enclip\[hf\]"):
        open_source("hf:ashraq/fashion-product-images-small")


def test_a_hugging_face_data_set_brings_its_pictures_along(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets", reason="the optional extra hf is not installed")
    (tmp_path / "one.jpg").write_bytes(picture(1))
    records = [
        {
            "id": 1,
            "productDisplayName": "One",
            "articleType": "Shirts",
            "year": 2012.0,
            "image": str(tmp_path / "one.jpg"),
        },
        {"id": 2, "productDisplayName": None, "articleType": "Shirts", "year": None, "image": None},
    ]
    folder = tmp_path / "set"
    folder.mkdir()
    datasets.Dataset.from_list(records).cast_column("image", datasets.Image()).to_parquet(str(folder / "train.parquet"))
    source = open_source(f"hf:{folder}")
    first, second = source.rows()
    assert isinstance(first, RawRow) and isinstance(second, RawRow)
    assert (first.product.product_id, first.product.name, first.product.year) == ("1", "One", "2012")
    assert source.image(first) == picture(1)
    with pytest.raises(ImageError, match="no picture"):
        source.image(second)
