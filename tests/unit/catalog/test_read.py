"""Sources and rows: what real exports look like."""

import csv
import importlib.util
import os
import tempfile
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from enclip.catalog.columns import RawRow
from enclip.catalog.images import MAX_BYTES
from enclip.catalog.read import open_source
from enclip.catalog.rows import MAX_LINE_BYTES
from enclip.errors import CatalogError, ConfigError, ImageError
from enclip.records import Rejection
from tests.conftest import unavailable

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
    assert _read(tmp_path)[2] == Rejection(3, "3", "productDisplayName holds a NUL byte")


def test_what_windows_writes_keeps_its_quotation_marks(tmp_path: Path) -> None:
    _write(tmp_path, f"{HEAD}\r\n1,{GOOD},Men’s “Best” – £20\r\n".encode("cp1252"))
    assert _products(tmp_path) == {"1": "Men’s “Best” – £20"}


def test_a_row_without_end_is_set_aside_under_its_id(tmp_path: Path) -> None:
    end = "x" * (10 * MAX_LINE_BYTES)
    _write(tmp_path, f'{HEAD}\n1,{GOOD},{end}\n2,{GOOD},{"y" * 5000}\n3,{GOOD},Good\n"4",{GOOD},"{end}"\n\r{end}\n')
    items = _read(tmp_path)
    assert [(item.row, item.product_id) for item in items if isinstance(item, Rejection)] == [
        (1, "1"),
        (2, "2"),
        (4, "4"),
        (5, ""),
    ]
    assert isinstance(items[2], RawRow) and items[2].product.product_id == "3"


def test_a_row_set_aside_is_called_by_its_id_wherever_that_stands(tmp_path: Path) -> None:
    _write(tmp_path, "articleType,id,season\nShirts,7\nBoots\nCaps,9,Fall,x\n")
    assert _read(tmp_path) == [
        Rejection(1, "7", "2 cells where the header has 3"),
        Rejection(2, "", "1 cells where the header has 3"),
        Rejection(3, "9", "4 cells where the header has 3"),
    ]


def test_ids_that_were_set_aside_cannot_steer_a_terminal(tmp_path: Path) -> None:
    _write(tmp_path, f"{HEAD}\n\x1b[31m1,{GOOD},Red\n")
    (item,) = _read(tmp_path)
    assert isinstance(item, Rejection) and item.product_id == "\ufffd[31m1"


def test_formulas_are_words_like_any_other(tmp_path: Path) -> None:
    _write(tmp_path, f"{HEAD}\n1,{GOOD},\"=cmd|' /C calc'!A0\"\n=1+1,{GOOD},@SUM(1+1)\n")
    assert _products(tmp_path) == {"1": "=cmd|' /C calc'!A0", "=1+1": "@SUM(1+1)"}


def test_columns_without_a_name_are_passed_over(tmp_path: Path) -> None:
    _write(tmp_path, "id,,productDisplayName,,\n1,note,Shirt,,\n2,,Belt,more,\n")
    assert _products(tmp_path) == {"1": "Shirt", "2": "Belt"}


def test_a_column_that_is_there_twice_is_one_error(tmp_path: Path) -> None:
    _write(tmp_path, "id,ID,productDisplayName\n1,2,Shirt\n")
    with pytest.raises(CatalogError, match=r"styles\.csv has the column 'ID', 'id' more than once.*rename"):
        _read(tmp_path)


@pytest.mark.parametrize("field", ["image", "name", "season"])
def test_a_mapped_column_that_is_not_there_is_never_passed_over(tmp_path: Path, field: str) -> None:
    _write(tmp_path, f"{HEAD}\n1,{GOOD},Shirt\n")
    with pytest.raises(CatalogError, match=r"styles\.csv has no column titel; it has id, gender"):
        _read(tmp_path, **{field: "titel"})


def test_a_header_without_end_is_cut_in_the_error(tmp_path: Path) -> None:
    _write(tmp_path, ",".join(f"column{number}" for number in range(10_000)) + "\n")
    with pytest.raises(CatalogError) as raised:
        _read(tmp_path)
    assert len(str(raised.value)) < 1000 and "has no column id" in raised.value.what


def test_one_product_and_none(tmp_path: Path) -> None:
    _write(tmp_path, f"{HEAD}\n")
    assert _read(tmp_path) == []
    _write(tmp_path, f"{HEAD}\n1,{GOOD},Only")
    assert _products(tmp_path) == {"1": "Only"}


def test_empty_cells_have_many_spellings_and_years_pass_through_floats(tmp_path: Path) -> None:
    _write(tmp_path, f"{HEAD}\n1,Men,Apparel,NA,Shirts,nan,,2012.0,null,Shirt\n")
    item = _read(tmp_path)[0]
    assert isinstance(item, RawRow)
    product = item.product
    assert (product.sub_category, product.base_colour, product.season, product.usage) == ("", "", "", "")
    assert product.year == "2012" and product.category == "Shirts"


def test_a_name_and_a_picture_can_be_empty_by_the_same_spellings(tmp_path: Path) -> None:
    """Products named "nan" would be one group, and asked for by that name."""
    _write(tmp_path, "id,productDisplayName,articleType,image\n1,nan,Shirts,NULL\n2,N/A,,\n3,Nancy,Shirts,one.png\n")
    first, second, third = _read(tmp_path)
    assert isinstance(first, RawRow) and (first.product.name, first.image) == ("", "")
    assert isinstance(second, Rejection) and "neither a name" in second.reason
    assert isinstance(third, RawRow) and (third.product.name, third.image) == ("Nancy", "one.png")


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


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "is empty"),
        (b"\n\n", "is empty"),
        ("id,name\n".encode("utf-16"), "is not UTF-8 text"),
        (b"id\0,name\n", "is not UTF-8 text"),
        (b"PK\x03\x04 a spreadsheet, zipped\n", "is not UTF-8 text"),
        (b"id,articleType\r1,Shirts\r2,Belts\r", "no line ends"),
        (b"id,articleType " * 100_000, "no line ends"),
        (b"<!doctype html>\n<html>Not found</html>\n", "has no column id"),
    ],
)
def test_what_is_no_table_is_one_error_with_a_remedy(tmp_path: Path, content: bytes, says: str) -> None:
    _write(tmp_path, content)
    with pytest.raises(CatalogError, match=says) as raised:
        _read(tmp_path)
    assert str(tmp_path / "styles.csv") in raised.value.what and raised.value.remedy


@pytest.mark.parametrize("name", ["nowhere", "x" * 5000, "a\0b", "shop"])
def test_a_missing_folder_is_one_error(tmp_path: Path, name: str) -> None:
    (tmp_path / "shop" / "styles.csv").mkdir(parents=True)
    with pytest.raises(CatalogError, match=r"No catalog at .*Name a folder with"):
        open_source(str(tmp_path / name))


@pytest.mark.parametrize("source", ["~nobody-lives-here/shop", "s3://", "s3:///prefix"])
def test_a_place_that_cannot_be_is_one_error(source: str) -> None:
    with pytest.raises(CatalogError):
        open_source(source)


def test_a_table_that_cannot_be_read_is_one_error(tmp_path: Path) -> None:
    _write(tmp_path, HEAD)
    source = open_source(str(tmp_path))
    (tmp_path / "styles.csv").unlink()
    for read in (source.num_rows, lambda: list(source.rows())):
        with pytest.raises(CatalogError, match=r"Cannot read .*styles\.csv: No such file") as raised:
            read()
        assert raised.value.remedy


# Pieces that meet in damaged exports; bytes alone would hardly ever be a header and rows.
PIECES = st.sampled_from(
    [
        b"1",
        b"x",
        b",",
        b";",
        b"\n",
        b"\r\n",
        b"\r",
        b'"',
        b'""',
        b"\0",
        b"\xff",
        b"\xef\xbb\xbf",
        b" ",
        b"\\",
        "é".encode(),
    ]
)


@settings(max_examples=300, deadline=None)
@given(
    st.binary(max_size=80) | st.just(f"{HEAD}\n".encode()) | st.just(b"name,id,articleType\n"),
    st.lists(PIECES | st.binary(max_size=6), max_size=60).map(b"".join),
)
def test_no_bytes_whatever_make_the_reader_fail(head: bytes, body: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        _write(Path(folder), head + body)
        try:
            items = _read(Path(folder))
        except CatalogError as error:
            assert error.remedy
            return
    assert [item.row for item in items] == list(range(1, len(items) + 1))
    for item in items:
        if isinstance(item, RawRow):
            assert item.product.product_id and (item.product.name or item.product.article_type)
        else:
            assert item.reason


def test_links_that_lead_out_of_the_folder_pipes_and_devices_are_no_pictures(tmp_path: Path) -> None:
    shop = write_catalog(tmp_path / "shop", [row(number) for number in range(1, 8)])
    images = shop / "images"
    (tmp_path / "secret.jpg").write_bytes(picture(99))
    for number, target in ((1, "2.jpg"), (3, tmp_path / "secret.jpg"), (4, "4.jpg"), (5, "/dev/zero")):
        (images / f"{number}.jpg").unlink()
        (images / f"{number}.jpg").symlink_to(target)
    for number in (6, 7):
        (images / f"{number}.jpg").unlink()
    os.mkfifo(images / "6.jpg")  # to read it would wait for ever
    (images / "7.jpg").mkdir()
    source = open_source(str(shop))
    rows = {item.product.product_id: item for item in source.rows() if isinstance(item, RawRow)}
    assert source.image(rows["1"]) == source.image(rows["2"]) == picture(2)  # a link within the folder
    says = {"3": "leads out of the catalog", "4": "symbolic links", "5": "leads out", "6": "is no file", "7": "no file"}
    for product_id, problem in says.items():
        with pytest.raises(ImageError, match=rf"images/{product_id}\.jpg.*{problem}|{problem}.*{product_id}"):
            source.image(rows[product_id])


def test_the_folder_itself_may_be_a_link(tmp_path: Path) -> None:
    write_catalog(tmp_path / "shop", [row(1)])
    (tmp_path / "link").symlink_to("shop")
    source = open_source(str(tmp_path / "link"))
    (item,) = source.rows()
    assert isinstance(item, RawRow) and source.image(item) == picture(1)
    assert source.name == open_source(str(tmp_path / "shop")).name


def test_a_picture_of_too_many_bytes_is_not_read(tmp_path: Path) -> None:
    shop = write_catalog(tmp_path / "shop", [row(1)])
    with open(shop / "images" / "1.jpg", "wb") as file:
        file.truncate(MAX_BYTES + 1)
    source = open_source(str(shop))
    (item,) = source.rows()
    assert isinstance(item, RawRow)
    with pytest.raises(ImageError, match=r"images/1\.jpg has 25000001 bytes; 25000000 are the most"):
        source.image(item)


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


@pytest.mark.parametrize("num_rows", [5_000, 20_000])
def test_memory_does_not_grow_with_the_rows(tmp_path: Path, num_rows: int) -> None:
    with open(tmp_path / "styles.csv", "w") as file:
        file.write(HEAD + "\n")
        file.writelines(f'{number},{GOOD},"Shirt {number}"\n' for number in range(num_rows))
    source = open_source(str(tmp_path))
    tracemalloc.start()
    expected = source.num_rows()
    count = sum(1 for _ in source.rows())
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert expected == count == num_rows
    assert peak < 2_500_000  # a piece of the file, and a row


@pytest.mark.skipif(importlib.util.find_spec("datasets") is not None, reason="the extra is installed")
def test_the_hub_without_its_extra_is_one_clear_error() -> None:
    with pytest.raises(CatalogError, match=r"enclip\[hf\]"):
        open_source("hf:ashraq/fashion-product-images-small")


def test_a_hugging_face_data_set_brings_its_pictures_along(tmp_path: Path) -> None:
    try:
        import datasets
    except ImportError:
        unavailable("hf", "the optional extra is not installed")
    folder = tmp_path / "set"
    folder.mkdir()
    (folder / "one.jpg").write_bytes(picture(1))  # beside the table, as nothing else of this machine is read
    records = [
        {
            "id": 1,
            "productDisplayName": "One",
            "articleType": "Shirts",
            "year": 2012.0,
            "image": str(folder / "one.jpg"),
        },
        {"id": 2, "productDisplayName": None, "articleType": "Shirts", "year": None, "image": None},
    ]
    datasets.Dataset.from_list(records).cast_column("image", datasets.Image()).to_parquet(str(folder / "train.parquet"))
    source = open_source(f"hf:{folder}")
    first, second = source.rows()
    assert isinstance(first, RawRow) and isinstance(second, RawRow)
    assert (first.product.product_id, first.product.name, first.product.year) == ("1", "One", "2012")
    assert source.image(first) == picture(1)
    with pytest.raises(ImageError, match="no picture"):
        source.image(second)
