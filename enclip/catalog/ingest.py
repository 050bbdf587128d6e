"""Rows → products: only what is new or changed, in batches that can be interrupted and run again (D14)."""

import logging
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import islice
from typing import Literal, TypeVar

from enclip.blobs import Blobs
from enclip.catalog.assign import assign_places
from enclip.catalog.columns import RawRow
from enclip.catalog.groups import picture_signature, title_keys
from enclip.catalog.images import decode, image_key, sha256
from enclip.catalog.lock import LONGEST_WAIT_S, ingest_lock
from enclip.catalog.read import CatalogSource
from enclip.catalog.store import Arrival, CatalogStore, Known, PictureFacts, content_hash
from enclip.cores import available_cores
from enclip.errors import CatalogError, StoreError, first_line
from enclip.records import IngestReport, Product, Rejection

logger = logging.getLogger(__name__)

BATCH = 256  # rows read, decoded and written at a time; at most this much is repeated after a crash
MAX_VANISH = 0.2
MAX_LISTED = 1000  # rejections kept in the report; all of them are counted

Progress = Callable[[int, int | None], None]
Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class _Unchanged:
    product_id: str
    claim: bool  # another source carried it last, or it was withdrawn
    returns: bool = False  # it was withdrawn, and is live again


@dataclass(frozen=True, slots=True)
class _Repriced:
    """As it was but for its price, which costs no look at the picture."""

    product_id: str
    price: float | None


_Outcome = Arrival | _Unchanged | _Repriced | Rejection


def ingest(
    source: CatalogSource,
    store: CatalogStore,
    blobs: Blobs,
    *,
    mode: Literal["upsert", "full"] = "upsert",
    categories: Sequence[str] = (),
    allow_vanish: bool = False,
    progress: Progress | None = None,
    wait_s: float = LONGEST_WAIT_S,
) -> IngestReport:
    """Take a source in: new and changed products, their pictures, and a group and split for each newcomer.

    Rows that cannot be used are set aside and reported; the first of duplicate ids wins. Memory holds two
    batches of rows, however many there are. Running again after an interruption goes on: what is in is unchanged.

    Args:
        source: from `enclip.catalog.read.open_source`.
        store: the catalog.
        blobs: where pictures go, under their SHA-256.
        mode: "full": products that this source carried before and no longer has are withdrawn.
        categories: take in (and withdraw) only products whose subCategory, articleType or masterCategory
            is one of these, case-insensitively; none: everything.
        allow_vanish: let "full" withdraw more than 20% of its scope.
        progress: called with rows done and about how many there are.
        wait_s: how long to wait for another ingest to end.

    Raises:
        CatalogError: the source has no usable table, another ingest holds the catalog for too long, or more
            than 20% would vanish; then what came in stays in, and nothing is withdrawn.
        StoreError: a blob or the S3 source cannot be reached, or the database went away meanwhile.
    """
    wanted = frozenset(category.casefold() for category in categories)
    with ingest_lock(store.engine, wait_s=wait_s), closing(_Ids()) as ids:
        tally = _Tally(ids)
        total = source.num_rows() if progress is not None else None
        with ThreadPoolExecutor(max_workers=min(8, available_cores() + 2)) as workers:

            def look(batch: list[RawRow]) -> list[Future[_Outcome]]:
                known = store.known([row.product.product_id for row in batch])
                return [workers.submit(_look, source, blobs, row, known.get(row.product.product_id)) for row in batch]

            batches = _batches(tally.first_of_each(source.rows(), wanted))
            try:
                for tasks in _one_ahead(map(look, batches)):
                    outcomes = [task.result() for task in tasks]
                    store.upsert([outcome for outcome in outcomes if isinstance(outcome, Arrival)])
                    store.reprice({o.product_id: o.price for o in outcomes if isinstance(o, _Repriced)}, source.name)
                    store.claim([o.product_id for o in outcomes if isinstance(o, _Unchanged) and o.claim], source.name)
                    tally.count(outcomes)
                    if progress is not None:
                        progress(tally.rows, max(total, tally.rows) if total is not None else None)
            except BaseException:
                # No look that has not begun is worth its wait now: each may wait for a store that is gone.
                workers.shutdown(wait=False, cancel_futures=True)
                raise
        placed = assign_places(store.engine)
        gone = _withdraw_absent(source, store, ids, wanted, allow_vanish) if mode == "full" else 0
    report = tally.report(gone)
    logger.info(
        "%s: %d accepted (%d placed), %d unchanged, %d rejected, %d gone",
        source.name,
        report.accepted,
        placed,
        report.unchanged,
        report.rejected,
        report.gone,
    )
    return report


def in_categories(product: Product, wanted: frozenset[str]) -> bool:
    """Whether a product belongs to one of the categories (given in casefold); no categories: always."""
    own = {product.sub_category.casefold(), product.article_type.casefold(), product.master_category.casefold()}
    return not wanted or bool(wanted & own)


class _Ids:
    """A set of ids on disk: millions of them would take hundreds of megabytes. Used by one thread."""

    def __init__(self) -> None:
        # SQLite deletes a database without a name when it is closed. Nobody reads it after a crash.
        self._database = sqlite3.connect("", isolation_level=None)
        self._database.execute("PRAGMA cache_size = -16000")  # KiB
        self._database.execute("PRAGMA journal_mode = OFF")
        self._database.execute("PRAGMA synchronous = OFF")
        self._database.execute("CREATE TABLE ids (id TEXT PRIMARY KEY) WITHOUT ROWID")
        self._database.execute("BEGIN")  # one transaction, never ended: a commit for each id would write each id

    def add(self, product_id: str) -> bool:
        """Whether the id is new."""
        return self._ask("INSERT OR IGNORE INTO ids VALUES (?)", product_id).rowcount == 1

    def __contains__(self, product_id: str) -> bool:
        return self._ask("SELECT 1 FROM ids WHERE id = ?", product_id).fetchone() is not None

    def __iter__(self) -> Iterator[str]:
        return (product_id for (product_id,) in self._ask("SELECT id FROM ids"))

    def _ask(self, statement: str, *values: str) -> sqlite3.Cursor:
        try:
            return self._database.execute(statement, values)
        except sqlite3.Error as error:
            raise StoreError(
                f"The ids of this ingest cannot be kept: {first_line(error)}.",
                remedy="Free space in the temporary folder, or name another one by SQLITE_TMPDIR.",
            ) from error

    def close(self) -> None:
        self._database.close()


class _Tally:
    """What has come of the rows so far."""

    def __init__(self, ids: _Ids) -> None:
        self._ids = ids
        self.rows = 0
        self._accepted = 0
        self._unchanged = 0
        self._rejected = 0
        self._rejections: list[Rejection] = []

    def first_of_each(self, rows: Iterable[RawRow | Rejection], wanted: frozenset[str]) -> Iterator[RawRow]:
        """Usable rows of the wanted categories, one per id; the rest is counted."""
        for row in rows:
            self.rows += 1
            if isinstance(row, Rejection):
                # A row that is there but cannot be read does not mean that its product is gone.
                if row.product_id:
                    self._ids.add(row.product_id)
                self._reject(row)
                continue
            is_wanted = in_categories(row.product, wanted)
            product_id = row.product.product_id
            if (not self._ids.add(product_id)) if is_wanted else (product_id in self._ids):
                self._reject(Rejection(row.row, product_id, "the id has come before in this source"))
            elif is_wanted:
                yield row

    def count(self, outcomes: Iterable[_Outcome]) -> None:
        for outcome in outcomes:
            if isinstance(outcome, Rejection):
                self._reject(outcome)
            elif isinstance(outcome, _Unchanged) and not outcome.returns:
                self._unchanged += 1
            else:
                self._accepted += 1

    def report(self, gone: int) -> IngestReport:
        return IngestReport(self._accepted, self._unchanged, self._rejected, gone, tuple(self._rejections))

    def _reject(self, rejection: Rejection) -> None:
        self._rejected += 1
        if len(self._rejections) < MAX_LISTED:
            self._rejections.append(rejection)


def _look(source: CatalogSource, blobs: Blobs, row: RawRow, known: Known | None) -> _Outcome:
    """Read a row's picture; decode and store it unless the product is as it was."""
    try:
        data = source.image(row)
        product = replace(row.product, image_sha256=sha256(data))
        if known is not None and known.content_hash == content_hash(product):
            if known.price != product.price:
                return _Repriced(product.product_id, product.price)
            claim = known.withdrawn or known.source != source.name
            return _Unchanged(product.product_id, claim=claim, returns=known.withdrawn)
        pixels = decode(data)
    except CatalogError as error:
        return Rejection(row.row, row.product.product_id, error.what)
    key = image_key(product.image_sha256)
    if not blobs.exists(key):
        blobs.put(key, data)
    signature = picture_signature(pixels)
    facts = PictureFacts(product.image_sha256, pixels.shape[1], pixels.shape[0], signature.thumb)
    keys = (*title_keys(product.name, product.base_colour, product.image_sha256), *signature.bands)
    return Arrival(product, facts, keys, source.name)


def _withdraw_absent(
    source: CatalogSource, store: CatalogStore, seen: _Ids, wanted: frozenset[str], allow_vanish: bool
) -> int:
    in_scope = num_absent = 0
    with closing(_Ids()) as absent:
        for product in store.carried_by(source.name):
            if in_categories(product, wanted):
                in_scope += 1
                if product.product_id not in seen:
                    num_absent += absent.add(product.product_id)
        if num_absent > MAX_VANISH * in_scope and not allow_vanish:
            raise CatalogError(
                f"{num_absent} of {in_scope} products of {source.name} would vanish, more than {MAX_VANISH:.0%}; "
                "what came in stays in, and nothing was withdrawn.",
                remedy="If the source is complete, run again with --allow-vanish.",
            )
        return sum(store.withdraw(batch) for batch in _batches(iter(absent)))


def _one_ahead(started: Iterator[list[Future[_Outcome]]]) -> Iterator[list[Future[_Outcome]]]:
    """Each of the batches once the next one is started, so that pictures are read while a batch is written."""
    ahead = next(started, None)
    while ahead is not None:
        current, ahead = ahead, next(started, None)
        yield current


def _batches(values: Iterator[Value]) -> Iterator[list[Value]]:
    while batch := list(islice(values, BATCH)):
        yield batch
