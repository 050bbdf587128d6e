"""Catalogs and pictures on a real S3 server that checks credentials."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import boto3
import pytest

from enclip.blobs import S3Blobs, open_blobs, s3_client
from enclip.catalog.ingest import ingest
from enclip.catalog.read import open_source
from enclip.catalog.snapshot import load_snapshot, pixel_map, take_snapshot
from enclip.catalog.store import CatalogStore
from enclip.database import open_database
from enclip.errors import CatalogError, SnapshotError, StoreError


@pytest.fixture
def store(tmp_path: Path) -> Iterator[CatalogStore]:
    engine = open_database(f"sqlite:///{tmp_path / 'catalog.db'}")
    yield CatalogStore(engine)
    engine.dispose()


def _upload(folder: Path, server: Any, prefix: str) -> str:
    client = s3_client(server.endpoint_url)
    for file in sorted(folder.rglob("*")):
        if file.is_file():
            key = f"{prefix}/{file.relative_to(folder).as_posix()}"
            client.put_object(Bucket=server.bucket, Key=key, Body=file.read_bytes())
    return f"s3://{server.bucket}/{prefix}"


def test_a_catalog_in_a_bucket_is_the_same_as_in_a_folder(
    s3_server: Any, drawn_catalog: Path, store: CatalogStore, tmp_path: Path
) -> None:
    url = _upload(drawn_catalog, s3_server, "shop/feed")
    missing = min(file.name for file in (drawn_catalog / "images").iterdir())
    s3_client(s3_server.endpoint_url).delete_object(Bucket=s3_server.bucket, Key=f"shop/feed/images/{missing}")
    blobs = open_blobs(f"s3://{s3_server.bucket}/store", s3_endpoint_url=s3_server.endpoint_url)
    assert isinstance(blobs, S3Blobs)

    source = open_source(url, s3_endpoint_url=s3_server.endpoint_url)
    report = ingest(source, store, blobs)
    assert (report.accepted, report.rejected) == (119, 1)
    assert "no picture" in report.rejections[0].reason
    again = ingest(open_source(f"{url}/styles.csv", s3_endpoint_url=s3_server.endpoint_url), store, blobs)
    assert again.accepted + again.unchanged == 119

    taken = take_snapshot(store, blobs)
    products = load_snapshot(blobs, taken.digest)
    assert products.product_id.tolist() == store.products().product_id.tolist()
    pixels = pixel_map(products, blobs, side=32, scratch=tmp_path / "scratch", digest=taken.digest)
    assert pixels.shape == (119, 32, 32, 3)
    with pytest.raises(SnapshotError):
        load_snapshot(blobs, "0" * 32)


def test_a_prefix_without_a_catalog_and_a_wrong_key_are_clear_errors(
    s3_server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    empty = open_source(f"s3://{s3_server.bucket}/nothing", s3_endpoint_url=s3_server.endpoint_url)
    with pytest.raises(CatalogError, match=r"styles\.csv is missing"):
        next(empty.rows())
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    boto3.setup_default_session()
    locked = open_source(f"s3://{s3_server.bucket}/nothing", s3_endpoint_url=s3_server.endpoint_url)
    with pytest.raises(StoreError, match="AWS_SECRET_ACCESS_KEY"):
        next(locked.rows())


def test_a_bucket_lists_and_deletes_as_a_folder_does(s3_server: Any, tmp_path: Path) -> None:
    bucket = open_blobs(f"s3://{s3_server.bucket}/deleting", s3_endpoint_url=s3_server.endpoint_url)
    for blobs in (bucket, open_blobs(str(tmp_path))):
        started = datetime.now(UTC)
        for key in ("a/b/1", "a/2", "other"):
            blobs.put(key, key.encode())
        assert [(blob.key, blob.num_bytes) for blob in blobs.listing("a/")] == [("a/2", 3), ("a/b/1", 5)]
        assert all(abs(blob.written_at - started) < timedelta(minutes=1) for blob in blobs.listing(""))
        blobs.delete("a/b/1")
        blobs.delete("a/b/1")  # harmless
        assert [blob.key for blob in blobs.listing("")] == ["a/2", "other"]
