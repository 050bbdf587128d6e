"""Ingest of drawn 60×80 JPEGs into SQLite and a folder, against the bar of 400 products a second.

Unit: products a second of `enclip ingest` without the start of its process: reading, hashing, decoding,
near-duplicate keys, groups and splits, blobs and rows, all durable. The figure is that of the smaller of two
catalogs; both are printed, since look-alikes to compare with grow with the catalog.

Memory is the larger catalog's peak, and what a further product adds to it: the difference of the two peaks.
The smaller one fills a chunk of newcomers already (`enclip.catalog.assign.CHUNK`), whose memory is the same for
every catalog that is larger; below it, each product of the chunk has its share.
"""

import resource
import subprocess
import sys
import tempfile
import time
from itertools import islice
from pathlib import Path

from report import print_result

SIZES, BAR = (10_000, 30_000), 400.0


def main() -> None:
    """Take in the first rows of one catalog, each number of them in a process that has its own peak."""
    measured = []
    with tempfile.TemporaryDirectory(prefix="enclip-bench-") as scratch:
        catalog = Path(scratch) / "catalog"
        drawing = [sys.executable, "-m", "enclip", "draw", str(catalog), "--products", str(SIZES[-1])]
        subprocess.run(drawing, check=True, stdout=subprocess.DEVNULL)
        for size in SIZES:
            table = catalog / f"{size}.csv"
            with open(catalog / "styles.csv") as rows:
                table.write_text("".join(islice(rows, size + 1)))
            taking_in = [sys.executable, __file__, str(table), str(size)]
            done = subprocess.run(taking_in, stdout=subprocess.PIPE, text=True, check=True)
            speed, peak = map(float, done.stdout.split())
            measured.append((speed, peak))
            print(f"{size} products: {speed:.0f} products/s, peak {peak:.1f} MB", file=sys.stderr)
    (speed, small), (_, large) = measured
    growth = (large - small) * 2**20 / (SIZES[1] - SIZES[0])
    print(f"a further product adds {growth:.0f} bytes to the peak", file=sys.stderr)
    print_result(
        "ingest",
        ours=speed,
        peer=BAR,
        peer_name="the bar of 400 products/s",
        ratio=speed / BAR,
        better="higher",
        goal=1,
        peak_memory_mb=large,
    )


def _take_in(table: str, size: int) -> None:
    from enclip.blobs import open_blobs
    from enclip.catalog.ingest import ingest
    from enclip.catalog.read import open_source
    from enclip.catalog.store import CatalogStore
    from enclip.database import open_database

    with tempfile.TemporaryDirectory(prefix="enclip-bench-") as scratch:
        store = CatalogStore(open_database(f"sqlite:///{scratch}/catalog.db"))
        start = time.perf_counter()
        report = ingest(open_source(table), store, open_blobs(f"{scratch}/store"))
        seconds = time.perf_counter() - start
    assert report.accepted == size, report
    print(size / seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


if __name__ == "__main__":
    _take_in(sys.argv[1], int(sys.argv[2])) if len(sys.argv) > 1 else main()
