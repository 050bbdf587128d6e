"""One product in, or out, between two ingests: what a shop's own program tells the catalog.

A product is taken in as any row of a source is, by the same code: what is as it was costs nothing, group and split
are decided once, and writers wait for each other.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from enclip.blobs import Blobs
from enclip.catalog.columns import RawRow, to_row
from enclip.catalog.images import image_key
from enclip.catalog.ingest import ingest
from enclip.catalog.store import CatalogStore, Entry
from enclip.errors import CatalogError, ImageError
from enclip.pipeline.platform import Platform
from enclip.records import Rejection

SOURCE = "api"  # who carries a product that came this way, until an ingest of a source brings it again
WAIT_S = 5.0  # a caller waits for the answer; an ingest that runs takes minutes


@dataclass(frozen=True)
class SingleProducts:
    """The catalog, a product at a time. `wait_s`: how long to wait for an ingest that runs."""

    platform: Platform
    wait_s: float = WAIT_S

    def entry(self, product_id: str) -> Entry | None:
        """What the catalog has of a product, withdrawn or not; None where there never was one."""
        return self.platform.catalog.entry(product_id)

    def put(self, product_id: str, cells: Mapping[str, str], *, image: bytes | None) -> bool:
        """Take a product in, whole: a field without a cell is empty afterwards. A withdrawn one is live again.

        Args:
            cells: by the names of `enclip.catalog.columns.COLUMNS`.
            image: the picture; None: the one that the product has.

        Returns:
            Whether the catalog is another one now.

        Raises:
            CatalogError: what no row of a source may be, such as a product without name and articleType.
            ImageError: the picture cannot be read, or there is none.
            CatalogBusy: an ingest has held the catalog for `wait_s` seconds.
            StoreError: a store does not answer, or the database went away meanwhile.
        """
        named = {**cells, "id": product_id}
        row = to_row(1, named, {name: name for name in named})
        if isinstance(row, Rejection):
            raise CatalogError(f"The product cannot be taken in: {row.reason}.")
        catalog, blobs = self.platform.catalog, self.platform.blobs
        report = ingest(_OneRow(replace(row, data=image), catalog, blobs), catalog, blobs, wait_s=self.wait_s)
        if report.rejections:
            raise ImageError(report.rejections[0].reason)  # nothing was wrong with the row itself
        return report.accepted > 0

    def withdraw(self, product_id: str) -> bool | None:
        """Take a product out, beside an ingest that runs; whether it was live, None where there never was one."""
        if self.entry(product_id) is None:
            return None
        return self.platform.catalog.withdraw([product_id]) > 0


@dataclass(frozen=True)
class _OneRow:
    """A catalog source of one row, with the picture that comes with it or is known already."""

    row: RawRow
    catalog: CatalogStore
    blobs: Blobs
    name: str = SOURCE

    def num_rows(self) -> int:
        return 1

    def rows(self) -> Iterator[RawRow]:
        yield self.row

    def image(self, row: RawRow) -> bytes:
        if row.data is not None:
            return row.data
        known = self.catalog.image_sha256(row.product.product_id)
        if known is None:
            raise ImageError("A product that is new needs a picture.")
        return self.blobs.get(image_key(known))
