"""Bytes by key: a folder by default, an S3 bucket by URL. A key is written whole or not at all."""

import os
import secrets
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol, TypeVar

from enclip.errors import StoreError, first_line

Answer = TypeVar("Answer")
TEMPORARY = ".tmp-"  # begins the name of a file that is still being written
S3_TIMEOUT_S = 20  # of silence; with the attempts below, a store that hangs fails in about a minute
S3_ATTEMPTS = 3


@dataclass(frozen=True, slots=True)
class Blob:
    """A key that is there, and when it was written last."""

    key: str
    num_bytes: int
    written_at: datetime


class Blobs(Protocol):
    """A flat store of bytes; keys are relative paths with `/`. Writing a key again replaces it."""

    @property
    def url(self) -> str:
        """Where the blobs lie."""
        ...

    def put(self, key: str, data: bytes) -> None:
        """Write whole or not at all. Raises StoreError."""
        ...

    def get(self, key: str) -> bytes:
        """The bytes. Raises StoreError where the key is absent or the store does not answer."""
        ...

    def exists(self, key: str) -> bool: ...

    def listing(self, prefix: str) -> Iterator[Blob]:
        """What lies under keys that start with the prefix, in ascending order of the keys."""
        ...

    def delete(self, key: str) -> None:
        """Remove a key; harmless where there is none. Raises StoreError."""
        ...


def open_blobs(url: str, *, s3_endpoint_url: str = "") -> Blobs:
    """The store at a folder's path or at `s3://bucket/prefix`."""
    if url.startswith("s3://"):
        bucket, _, prefix = url.removeprefix("s3://").partition("/")
        return S3Blobs(bucket, prefix.strip("/"), endpoint_url=s3_endpoint_url)
    return FileBlobs(Path(url.removeprefix("file://")))


class FileBlobs:
    """A folder. Files appear by rename, so a reader never sees half of one."""

    def __init__(self, root: Path) -> None:
        self._root = root

    @property
    def url(self) -> str:
        return str(self._root)

    def path(self, key: str) -> Path:
        """The file of a key. Raises StoreError for a key that leaves the folder."""
        if key.startswith("/") or ".." in key.split("/"):
            raise StoreError(f"Key {key!r} leaves the store {self._root}.")
        return self._root / key

    def put(self, key: str, data: bytes) -> None:
        path = self.path(key)
        with writing(path):
            write_whole(path, data)

    def get(self, key: str) -> bytes:
        path = self.path(key)
        try:
            return path.read_bytes()
        except OSError as error:
            raise StoreError(f"Cannot read {path}: {error.strerror}.") from error

    def exists(self, key: str) -> bool:
        return self.path(key).is_file()

    def listing(self, prefix: str) -> Iterator[Blob]:
        start = self.path(prefix)
        folder = start if start.is_dir() else start.parent
        if not folder.is_dir():
            return
        for path in sorted(folder.rglob("*")):
            key = path.relative_to(self._root).as_posix()
            if key.startswith(prefix) and not path.name.startswith(TEMPORARY):
                with suppress(FileNotFoundError):  # deleted meanwhile
                    found = path.stat()
                    if stat.S_ISREG(found.st_mode):
                        yield Blob(key, found.st_size, datetime.fromtimestamp(found.st_mtime, UTC))

    def delete(self, key: str) -> None:
        path = self.path(key)
        with writing(path):
            path.unlink(missing_ok=True)


class S3Blobs:
    """A bucket, through boto3. Credentials come from boto3's own chain (environment, profile, role)."""

    def __init__(self, bucket: str, prefix: str, *, endpoint_url: str = "", timeout_s: float = S3_TIMEOUT_S) -> None:
        self._bucket = bucket
        self._prefix = f"{prefix}/" if prefix else ""
        self._client = s3_client(endpoint_url, timeout_s=timeout_s)

    @property
    def url(self) -> str:
        return f"s3://{self._bucket}/{self._prefix}".rstrip("/")

    def put(self, key: str, data: bytes) -> None:
        self._call(
            "write", key, lambda: self._client.put_object(Bucket=self._bucket, Key=self._prefix + key, Body=data)
        )

    def get(self, key: str) -> bytes:
        def read() -> bytes:
            body: bytes = self._client.get_object(Bucket=self._bucket, Key=self._prefix + key)["Body"].read()
            return body

        return self._call("read", key, read)

    def exists(self, key: str) -> bool:
        from botocore.exceptions import ClientError

        def head() -> bool:
            try:
                self._client.head_object(Bucket=self._bucket, Key=self._prefix + key)
            except ClientError as error:
                if error.response.get("ResponseMetadata", {}).get("HTTPStatusCode") == 404:
                    return False
                raise
            return True

        return self._call("look up", key, head)

    def listing(self, prefix: str) -> Iterator[Blob]:
        pages = self._client.get_paginator("list_objects_v2").paginate(
            Bucket=self._bucket, Prefix=self._prefix + prefix
        )
        for page in self._call("list", prefix, lambda: list(pages)):
            for entry in page.get("Contents", []):
                yield Blob(str(entry["Key"]).removeprefix(self._prefix), int(entry["Size"]), entry["LastModified"])

    def delete(self, key: str) -> None:
        self._call("delete", key, lambda: self._client.delete_object(Bucket=self._bucket, Key=self._prefix + key))

    def _call(self, verb: str, key: str, action: Callable[[], Answer]) -> Answer:
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            return action()
        except (BotoCoreError, ClientError) as error:
            raise StoreError(
                f"Cannot {verb} s3://{self._bucket}/{self._prefix}{key}: {error}.",
                remedy="Check ENCLIP_S3_ENDPOINT_URL, the bucket and AWS_ACCESS_KEY_ID / AWS_SECRET_ACCESS_KEY.",
            ) from error


def s3_client(endpoint_url: str = "", *, timeout_s: float = S3_TIMEOUT_S) -> Any:
    """A boto3 S3 client with bounded retries; `timeout_s` of silence end an attempt."""
    import boto3
    from botocore.config import Config

    return boto3.client(
        "s3",
        endpoint_url=endpoint_url or None,
        config=Config(
            retries={"mode": "standard", "max_attempts": S3_ATTEMPTS},
            connect_timeout=min(5, timeout_s),
            read_timeout=timeout_s,
            # Several S3-compatible stores reject the newer default checksums.
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
        ),
    )


@contextmanager
def writing(path: Path, *also: type[Exception]) -> Iterator[None]:
    """Turn what the system says about a file or folder that is being written into a StoreError that names it.

    Args:
        also: what a library raises where it hides the system's own error.
    """
    kinds: tuple[type[Exception], ...] = (OSError, *also)
    try:
        yield
    except kinds as error:
        reason = getattr(error, "strerror", None) or first_line(error)
        raise StoreError(
            f"Cannot write {path}: {reason}.", remedy="Free space or fix permissions, and run again."
        ) from error


def write_whole(path: Path, data: bytes) -> None:
    """Write a file by temporary name and rename; a crash leaves the old file or none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{TEMPORARY}{secrets.token_hex(8)}")
    try:
        with open(temporary, "xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
