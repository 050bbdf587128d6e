"""Ingest of drawn 60×80 JPEGs into SQLite and a folder, against the bar of 400 products a second.

Unit: products a second of `enclip ingest` without the start of its process: reading, hashing, decoding,
near-duplicate keys, groups and splits, blobs and rows, all durable. Memory is that of the larger of two
catalogs; the smaller one's is printed beside it, since it should not depend on their size.
"""

import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from report import print_result

SIZES, BAR = (2_000, 8_000), 400.0


def main() -> None:
    """Take in each catalog in a process of its own, so that each has its own peak."""
    measured = []
    for size in SIZES:
        done = subprocess.run([sys.executable, __file__, str(size)], capture_output=True, text=True, check=True)
        speed, peak = map(float, done.stdout.split())
        measured.append((speed, peak))
        print(f"{size} products: {speed:.0f} products/s, peak {peak:.0f} MB", file=sys.stderr)
    speed, peak = measured[-1]
    print_result(
        "ingest",
        ours=speed,
        peer=BAR,
        peer_name="the bar of 400 products/s",
        ratio=speed / BAR,
        better="higher",
        goal=1,
        peak_memory_mb=peak,
    )


def _take_in(size: int) -> None:
    from enclip.blobs import open_blobs
    from enclip.catalog.ingest import ingest
    from enclip.catalog.read import open_source
    from enclip.catalog.store import CatalogStore
    from enclip.database import open_database

    with tempfile.TemporaryDirectory(prefix="enclip-bench-") as scratch:
        folder = Path(scratch) / "catalog"
        # In a process of its own: what drawing takes is not ingest's memory.
        drawing = [sys.executable, "-m", "enclip", "draw", str(folder), "--products", str(size)]
        subprocess.run(drawing, check=True, stdout=subprocess.DEVNULL)
        store = CatalogStore(open_database(f"sqlite:///{scratch}/catalog.db"))
        start = time.perf_counter()
        report = ingest(open_source(str(folder)), store, open_blobs(f"{scratch}/store"))
        seconds = time.perf_counter() - start
    assert report.accepted == size, report
    print(size / seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


if __name__ == "__main__":
    _take_in(int(sys.argv[1])) if len(sys.argv) > 1 else main()
