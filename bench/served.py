"""What programs and tests around a running service share: two releases, `enclip serve`, load that knows the answers."""

import asyncio
import os
import re
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import httpx
import numpy as np
import torch

from enclip.catalog.images import decode, fit_square, image_key
from enclip.models.bases import load_base
from enclip.models.checkpoint import save_checkpoint
from enclip.models.clip import ClipEncoder
from enclip.models.soup import estimate_batch_norm
from enclip.pipeline.canary import Canaries
from enclip.pipeline.members import member_of
from enclip.pipeline.open_release import open_release_folder
from enclip.pipeline.platform import Platform
from enclip.registry import CHAMPION
from enclip.release import ClusterSettings, Manifest, write_manifest
from enclip.retrieval.searcher import Searcher
from enclip.serving.follow import POLL_S
from enclip.serving.run import THREAD_VARIABLES, bind

SNAPSHOT = "0" * 64
Result = TypeVar("Result")
SAME = 1e-5  # of scores; a release that is loaded again computes the same
PAGE = 10
SETTLES_S = 3 * POLL_S


def register_release(platform: Platform, folder: Path, *, seed: int, half: int, snapshot: str = SNAPSHOT) -> int:
    """A release of one untrained epoch over every second product, with canaries; its version."""
    products = platform.catalog.products()
    products = products.take(np.arange(half, len(products), 2))

    def picture(sha256: str) -> bytes:
        return platform.blobs.get(image_key(sha256))

    model = load_base("tiny", seed=seed, device=torch.device("cpu"))
    pixels = np.stack([fit_square(decode(picture(sha256)), model.side) for sha256 in products.image_sha256])
    # Without the statistics of its pictures, an untrained tower sees them all as equal.
    estimate_batch_norm(model, pixels, torch.device("cpu"))
    save_checkpoint(folder / "epoch", model, pixel_side=model.side)
    mlflow_run_id = platform.registry.open_run(f"serve-{seed}", kind="retrain", params={})
    epoch = platform.registry.log_epoch(
        mlflow_run_id,
        folder / "epoch",
        instance=0,
        epoch=0,
        metrics={"val_map_at_10": 0.1},
        snapshot=snapshot,
        num_products=len(products),
    )
    blocks = [ClipEncoder(model).encode_images(pixels)]
    searcher = Searcher.build(products, blocks, [1.0], cluster_count=3)
    searcher.save(folder / "release")
    manifest = Manifest(
        kind="retrain",
        run_id=f"serve-{seed}",
        base="tiny",
        snapshot=snapshot,
        trained_on=snapshot,
        num_products=len(products),
        members=(member_of(epoch, model.side),),
        clusters=ClusterSettings(count=searcher.clusters.count, pull=0.0),
        rescored=searcher.rescored,
        chosen_because="there is one",
        created_at="2026-11-20T00:00:00+00:00",
    )
    manifest = write_manifest(folder / "release", manifest)
    opened = open_release_folder(folder / "release", platform.registry)
    Canaries.of(opened, picture, pixel_side=model.side).save(folder / "release")
    manifest = write_manifest(folder / "release", manifest)
    return platform.registry.log_release(mlflow_run_id, folder / "release", manifest)


def run_enclip(*arguments: str, home: Path, log: Path, **environment: str) -> subprocess.Popen[bytes]:
    """An `enclip` command as a process of its own; both its streams go to the log."""
    inherited = {name: value for name, value in os.environ.items() if name not in THREAD_VARIABLES}
    with open(log, "wb") as file:
        return subprocess.Popen(
            [sys.executable, "-m", "enclip", *arguments],
            env={**inherited, "ENCLIP_HOME": str(home), **environment},
            stdout=file,
            stderr=file,
        )


def run_apart(main: Coroutine[Any, Any, Result]) -> Result:
    """`asyncio.run` in a thread of its own: where tests drive a browser too, this one has a loop already."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, main).result()


def eventually(condition: Callable[[], bool], *, timeout_s: float) -> float:
    """Seconds until the condition held."""
    started = time.monotonic()
    while not condition():
        assert time.monotonic() - started < timeout_s, f"not within {timeout_s} s"
        time.sleep(0.05)
    return time.monotonic() - started


@dataclass(frozen=True)
class Server:
    """`enclip serve` as a process, over a platform whose alias can be moved.

    Attributes:
        asking: kept open, since who asks often, in the process that makes the load, must not be the load.
    """

    process: subprocess.Popen[bytes]
    url: str
    platform: Platform
    asking: httpx.Client

    def release(self) -> int | None:
        """What answers now."""
        release: int | None = self.asking.get("/health/ready").json()["release"]
        return release

    def switch(self, release: int, *, timeout_s: float = 30) -> float:
        """Move the alias; seconds until the release answers."""
        self.platform.registry.set_alias(CHAMPION, release)
        return eventually(lambda: self.release() == release, timeout_s=timeout_s)

    def settled_mb(self) -> float:
        """Resident memory, once the release before has gone and the service has given its memory back."""
        time.sleep(SETTLES_S)
        return self.rss_mb()

    def rss_mb(self) -> float:
        """Resident memory of the process now."""
        lines = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS"))


@contextmanager
def served(platform: Platform, *, log: Path, **environment: str) -> Iterator[Server]:
    """A server on a free port, until the block ends."""
    with bind("127.0.0.1", 0) as probe:
        port = probe.getsockname()[1]
    home = platform.settings.home
    process = run_enclip("serve", "--port", str(port), home=home, log=log, **environment)
    url = f"http://127.0.0.1:{port}"

    # Given up before the service would: it closes a connection that has rested for 5 s.
    asking = httpx.Client(base_url=url, limits=httpx.Limits(keepalive_expiry=2.0))

    def ready() -> bool:
        assert process.poll() is None, log.read_text()
        try:
            return asking.get("/health/ready").status_code == 200
        except httpx.TransportError:
            return False

    try:
        eventually(ready, timeout_s=120)
        yield Server(process, url, platform, asking)
    finally:
        asking.close()
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@dataclass(frozen=True)
class Asked:
    """One request of the load."""

    method: str
    path: str
    json: dict[str, Any] | None = None


Found = list[list[tuple[str, float]]]  # per search of a request, its products and their scores


def requests_of(products: Sequence[str], texts: Sequence[str]) -> list[Asked]:
    """Searches by words, with filters, like a product, turned away, paged, spread; likenesses; batches.

    Args:
        products: to be like; of a release that lacks them 404 is the right answer.
    """
    asked = []
    for number, text in enumerate(texts):
        words = {"text": text, "k": PAGE}
        asked += [
            Asked("POST", "/v1/search", words),
            Asked("POST", "/v1/search", {**words, "filters": {"gender": ["Men", "Women"]}}),
            Asked("POST", "/v1/search", {**words, "offset": 5, "without": "striped"}),
        ]
        for product_id in products[number % len(products) :][:1] if products else ():
            asked.append(Asked("POST", "/v1/search", {**words, "like": product_id, "spread": True}))
            asked.append(Asked("GET", f"/v1/similar/{product_id}?k={PAGE}"))
    searches = [{"text": text, "k": 5} for text in texts]
    batches = [searches[start : start + 4] for start in range(0, len(searches), 4)]
    return asked + [Asked("POST", "/v1/search/batch", {"searches": batch}) for batch in batches]


@dataclass
class Load:
    """Requests to a service whose answers are known by release.

    Attributes:
        known: request → release → the answer that is right for it.
        latencies_s: from when a request was due, so that one that had to wait to be sent is slower by that.
        failures: what went wrong: other statuses, answers without a release, broken connections.
        mixed: answers that are not those of the release that they name.
    """

    url: str
    requests: list[Asked]
    known: dict[int, dict[int, Found]] = field(default_factory=dict)
    latencies_s: list[float] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    mixed: list[str] = field(default_factory=list)
    by_release: dict[int, int] = field(default_factory=dict)

    def learn(self, release: int) -> None:
        """Ask everything once while one release alone answers; run before any load, for every release."""

        async def ask_all() -> None:
            async with self._client() as client:
                for number, asked in enumerate(self.requests):
                    named, found = _read(await self._send(client, asked))
                    assert named == release, f"release {named} answers, not {release}"
                    self.known.setdefault(number, {})[release] = found

        run_apart(ask_all())

    def at_rate(self, per_s: float, *, until: Callable[[], bool], seed: int = 0) -> None:
        """Open loop: a request whenever it is due, whatever became of those before it."""
        chance = np.random.default_rng(seed)

        async def go_on() -> None:
            async with self._client() as client, asyncio.TaskGroup() as tasks:
                started, number = time.perf_counter(), 0
                while not until():
                    due = started + number / per_s
                    await asyncio.sleep(max(0.0, due - time.perf_counter()))
                    tasks.create_task(self._ask(client, int(chance.integers(len(self.requests))), due))
                    number += 1

        run_apart(go_on())

    def closed(self, clients: int, *, seconds: float) -> float:
        """Closed loop: each client asks again as soon as it is answered; requests a second."""
        before, ends = len(self.latencies_s), time.perf_counter() + seconds

        async def one(client: httpx.AsyncClient, seed: int) -> None:
            chance = np.random.default_rng(seed)
            while time.perf_counter() < ends:
                await self._ask(client, int(chance.integers(len(self.requests))), time.perf_counter())

        async def all_of_them() -> None:
            async with self._client() as client:
                await asyncio.gather(*(one(client, seed) for seed in range(clients)))

        run_apart(all_of_them())
        return (len(self.latencies_s) - before) / seconds

    def forget(self) -> None:
        """Count from here; what went wrong before stays known."""
        self.latencies_s.clear()
        self.by_release.clear()

    def percentile_ms(self, share: float) -> float:
        """Of the latencies, in ms."""
        return float(np.quantile(self.latencies_s, share)) * 1000

    def _client(self) -> httpx.AsyncClient:
        limits = httpx.Limits(max_connections=200, max_keepalive_connections=200)
        return httpx.AsyncClient(base_url=self.url, timeout=30, limits=limits)

    def _send(self, client: httpx.AsyncClient, asked: Asked) -> Awaitable[httpx.Response]:
        return client.request(asked.method, asked.path, json=asked.json)

    async def _ask(self, client: httpx.AsyncClient, number: int, due: float) -> None:
        asked = self.requests[number]
        try:
            answer = await self._send(client, asked)
            release, found = _read(answer)
        except (httpx.HTTPError, KeyError, ValueError) as error:
            self.failures.append(f"{asked}: {error!r}")
            return
        self.latencies_s.append(time.perf_counter() - due)
        self.by_release[release] = self.by_release.get(release, 0) + 1
        if not _same(self.known[number].get(release, []), found):
            self.mixed.append(f"{asked}: release {release}, {answer.text[:300]}")


def _read(answer: httpx.Response) -> tuple[int, Found]:
    """Release and products of an answer; of one that has no such product, none. Raises ValueError."""
    body = answer.json()
    without = re.match(r"Release (\d+) has no (such )?product", str(body.get("detail")))
    if answer.status_code == 404 and without:
        return int(without[1]), []
    if answer.status_code != 200:
        raise ValueError(f"{answer.status_code} {answer.text[:300]}")
    parts = body.get("answers", [body])
    if {part["release"] for part in parts} != {body["release"]}:
        raise ValueError(f"releases within one answer: {[part['release'] for part in parts]}")
    return body["release"], [[(hit["product_id"], hit["score"]) for hit in part["results"]] for part in parts]


def _same(expected: Found, found: Found) -> bool:
    def products(answer: Found) -> list[list[str]]:
        return [[product_id for product_id, _ in part] for part in answer]

    def scores(answer: Found) -> list[float]:
        return [score for part in answer for _, score in part]

    return products(expected) == products(found) and np.allclose(scores(expected), scores(found), rtol=0, atol=SAME)
