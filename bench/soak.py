"""The service under half its maximum load, its alias moved again and again: failures, mixed answers, memory.

Two releases without a product in common, so that an answer shows which one it is from; each answer is held against
what the release that it names said when it alone was served. The maximum is what 16 clients in a closed loop get; the
load is then an open loop at half of it, so that a service that stalls is not asked less. Latency counts from when a
request was due. Load and service share the machine.

Unit: resident memory of the service, after the last switch over after the first two. `--minutes 10 --report` makes
docs/reports/soak.md.
"""

import argparse
import os
import platform as machine
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from report import print_result
from served import Load, Server, register_release, requests_of, served

from enclip.catalog.drawn import draw_catalog
from enclip.config import Settings
from enclip.evaluation.markdown import markdown_table
from enclip.pipeline.ingest import ingest_source
from enclip.pipeline.platform import Platform, open_platform
from enclip.registry import CHAMPION

CLIENTS, CLOSED_S = 16, 15
TEXTS = ("navy blue shirt", "red bag", "women black dress", "white shoes", "watch", "sunglasses", "men green cap")
ROWS = 20  # of the report's table
REPORT = Path("docs/reports/soak.md")


@dataclass(frozen=True)
class Sample:
    """The service at one moment; `p99_ms` is of what was answered since the one before."""

    at_s: float
    release: int
    rss_mb: float
    answered: int
    p99_ms: float


def main() -> None:
    """Print the memory's ratio; exit with 1 where a request failed or an answer was mixed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--switches", type=int, default=20)
    parser.add_argument("--products", type=int, default=2000)
    parser.add_argument("--shadow-share", type=float, default=0.0)
    parser.add_argument("--report", action="store_true", help=f"write {REPORT}")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="enclip-bench-") as scratch:
        shop = _shop(Path(scratch), options.products)
        log, shadow = Path(scratch) / "serve.log", str(options.shadow_share)
        with served(shop, log=log, ENCLIP_SHADOW_SHARE=shadow) as server:
            load = Load(server.url, requests_of(_some_ids(shop), TEXTS))
            load.learn(1)
            server.switch(2)
            load.learn(2)
            server.switch(1)
            fastest = load.closed(CLIENTS, seconds=CLOSED_S)
            start_mb = server.settled_mb()
            load.forget()
            samples, waits_s = _soak(server, load, fastest / 2, minutes=options.minutes, switches=options.switches)
            end_mb = server.settled_mb()
    for problem in (load.failures + load.mixed)[:5]:
        print(problem, file=sys.stderr)
    text = _report(options, load, samples, waits_s, fastest=fastest, start_mb=start_mb, end_mb=end_mb)
    print(text)
    if options.report:
        REPORT.write_text(text)
    print_result(
        "soak",
        ours=end_mb,
        peer=start_mb,
        peer_name="memory after the first two switches",
        ratio=end_mb / start_mb,
        better="lower",
        goal=1.1,
        peak_memory_mb=max(sample.rss_mb for sample in samples),
    )
    sys.exit(bool(load.failures or load.mixed))


def _shop(scratch: Path, num_products: int) -> Platform:
    """A drawn catalog with two releases over one half of it each."""
    shop = open_platform(Settings(ENCLIP_HOME=scratch / "home", MLFLOW_TRACKING_URI="", ENCLIP_DATABASE_URL=""))
    ingest_source(shop, str(draw_catalog(scratch / "drawn", num_products=num_products, seed=3)))
    for half in (0, 1):
        register_release(shop, scratch / f"release-{half}", seed=half, half=half)
    shop.registry.set_alias(CHAMPION, 1)
    return shop


def _some_ids(shop: Platform) -> list[str]:
    """Of both releases."""
    return [str(product_id) for product_id in shop.catalog.products().product_id[:7]]


def _soak(
    server: Server, load: Load, per_s: float, *, minutes: float, switches: int
) -> tuple[list[Sample], list[float]]:
    """Samples over time, a switch at each; and what each switch took, in seconds."""
    ended = threading.Event()
    asking = threading.Thread(target=load.at_rate, args=(per_s,), kwargs={"until": ended.is_set})
    started, release, waits_s = time.monotonic(), 1, []
    samples = [Sample(0.0, release, server.rss_mb(), 0, 0.0)]
    asking.start()
    try:
        for number in range(1, switches + 1):
            release = 3 - release
            waits_s.append(server.switch(release))
            time.sleep(max(0.0, started + minutes * 60 * number / switches - time.monotonic()))
            since, answered = samples[-1].answered, len(load.latencies_s)
            p99_ms = float(np.quantile(load.latencies_s[since:answered] or [0.0], 0.99)) * 1000
            samples.append(Sample(time.monotonic() - started, release, server.rss_mb(), answered, p99_ms))
    finally:
        ended.set()
        asking.join()
    return samples, waits_s


def _report(
    options: argparse.Namespace,
    load: Load,
    samples: list[Sample],
    waits_s: list[float],
    *,
    fastest: float,
    start_mb: float,
    end_mb: float,
) -> str:
    command = f"bench/soak.py --minutes {options.minutes:g} --switches {options.switches} --products {options.products}"
    if options.shadow_share:
        command += f" --shadow-share {options.shadow_share:g}"
    lasted_s = samples[-1].at_s
    figures = [
        ("load", f"{len(load.latencies_s) / lasted_s:.0f} requests/s, half of {fastest:.0f} with {CLIENTS} clients"),
        ("lasted", f"{lasted_s / 60:.1f} min"),
        ("requests answered", f"{len(load.latencies_s)}, " + _by_release(load)),
        ("requests failed", str(len(load.failures))),
        ("answers that mix releases, or are not their release's", str(len(load.mixed))),
        ("switches", f"{len(waits_s)}; from alias to answers {max(waits_s):.1f} s at most"),
        ("latency", ", ".join(f"p{share * 100:g} {load.percentile_ms(share):.0f} ms" for share in (0.5, 0.95, 0.99))),
        ("memory after the first two switches", f"{start_mb:.0f} MB"),
        ("memory at the end", f"{end_mb:.0f} MB; meanwhile at most {max(s.rss_mb for s in samples):.0f} MB"),
    ]
    every = max(1, len(samples) // ROWS)
    rows = [
        (f"{sample.at_s / 60:.1f}", sample.release, f"{sample.rss_mb:.0f}", sample.answered, f"{sample.p99_ms:.0f}")
        for place, sample in enumerate(samples)
        if place % every == 0 or place == len(samples) - 1
    ]
    return "\n".join(
        [
            "# The service under load while its alias moves\n",
            f"Made by `{command}`{' --report' if options.report else ''}, {time.strftime('%Y-%m-%d')}, on "
            f"{os.cpu_count()} cores ({machine.machine()}) that service and load share. Two releases of "
            f"{options.products // 2} products each, none in both; searches by words, with filters, like a product, "
            f"turned from words, by page; likenesses; batches of four. Every answer is compared with what the release "
            f"that it names said when it alone was served. Latency counts from when a request was due.\n",
            markdown_table(("", ""), figures),
            "\n## Over time\n",
            markdown_table(("minute", "release", "memory, MB", "answered", "p99, ms"), rows),
        ]
    )


def _by_release(load: Load) -> str:
    return " and ".join(f"{count} by release {release}" for release, count in sorted(load.by_release.items()))


if __name__ == "__main__":
    main()
