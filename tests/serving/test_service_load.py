"""Promotions and rollbacks under load, in the real server process: 50 requests a second, 20 switches.

Two releases without a product in common. Each answer is held against what the release that it names said when it alone
was served: products and scores, of searches, likenesses and batches.
"""

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.served import Load, Server, register_release, requests_of, served
from enclip.catalog.drawn import draw_catalog
from enclip.config import Settings
from enclip.pipeline.ingest import ingest_source
from enclip.pipeline.open_release import open_release
from enclip.pipeline.platform import Platform, open_platform
from enclip.registry import CHALLENGER, CHAMPION
from enclip.shadow import shadow_totals

pytestmark = pytest.mark.slow

PER_S = 50
SWITCHES = 20
TEXTS = ("navy blue shirt", "red bag", "women black dress", "watch", "sunglasses")
# A release of these takes 32 MB: if each switch left one behind, 650. The allocator alone moves it by some 10 MB.
GROWTH_MB = 60


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Platform:
    """A hundred drawn products; releases 1, the champion, and 2, over one half of them each."""
    opened = open_platform(Settings(ENCLIP_HOME=tmp_path_factory.mktemp("home")))
    ingest_source(opened, str(draw_catalog(tmp_path_factory.mktemp("drawn"), num_products=100, seed=3)))
    for half in (0, 1):
        register_release(opened, tmp_path_factory.mktemp("release"), seed=half, half=half)
    opened.registry.set_alias(CHAMPION, 1)
    return opened


@pytest.fixture
def server(platform: Platform, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Server]:
    """`enclip serve` over the platform, with the environment that the test asks for."""
    # Patience: on a machine that others use too, a search that waits long is no failure of a switch.
    asked = {"ENCLIP_SEARCH_WAIT_S": "60", **getattr(request, "param", {})}
    with served(platform, log=tmp_path / "serve.log", **asked) as running:
        yield running


def test_no_request_fails_or_mixes_releases_and_memory_comes_back(server: Server, platform: Platform) -> None:
    some_of_both = [str(product_id) for product_id in platform.catalog.products().product_id[:4]]
    load = Load(server.url, requests_of(some_of_both, TEXTS))
    for release in (1, 2):
        if release == 2:
            server.switch(2)
        load.learn(release)
        check_against_the_release(platform, load, release)
    assert all(known[1] != known[2] for known in load.known.values()), "else no mixture could be seen"
    server.switch(1)
    before_mb = server.settled_mb()

    ended = threading.Event()
    asking = threading.Thread(target=load.at_rate, args=(PER_S,), kwargs={"until": ended.is_set})
    asking.start()
    try:
        waits_s = [server.switch(2 - number % 2) for number in range(SWITCHES)]
    finally:
        ended.set()
        asking.join()

    assert not load.failures, load.failures[:3]
    assert not load.mixed, load.mixed[:3]
    assert len(load.latencies_s) > PER_S * sum(waits_s) * 0.8, "it was asked less than it was meant to be"
    assert min(load.by_release.values()) > PER_S, load.by_release
    assert server.settled_mb() - before_mb < GROWTH_MB


def check_against_the_release(platform: Platform, load: Load, release: int) -> None:
    """What was learnt is what the release says in this process too."""
    opened = open_release(platform, release)
    for number, asked in enumerate(load.requests):
        if asked.path == "/v1/search" and asked.json and set(asked.json) == {"text", "k"}:
            (learnt,) = load.known[number][release]
            found = opened.search(text=asked.json["text"], k=asked.json["k"])
            assert {product_id for product_id, _ in learnt} <= set(map(str, opened.products.product_id))
            assert [score for _, score in learnt] == pytest.approx([hit.score for hit in found.hits], abs=1e-4)


@pytest.mark.parametrize("server", [{"ENCLIP_SHADOW_SHARE": "1"}], indirect=True)
def test_the_challenger_is_asked_in_the_shadow_and_what_it_showed_is_kept(server: Server, platform: Platform) -> None:
    """While the two change places: who is champion is not compared with itself, and all is kept when it ends."""
    load = Load(server.url, requests_of([], ("navy blue shirt", "red bag")))
    ended = threading.Event()
    asking = threading.Thread(target=load.at_rate, args=(PER_S,), kwargs={"until": ended.is_set})
    load.learn(1)
    server.switch(2)
    load.learn(2)
    asking.start()
    try:
        for champion, challenger in ((1, 2), (2, 1)):
            platform.registry.set_alias(CHALLENGER, challenger)
            server.switch(champion)
            threading.Event().wait(4)
    finally:
        ended.set()
        asking.join()
        platform.registry.drop_alias(CHALLENGER)
    server.process.terminate()
    server.process.wait(30)
    assert (load.failures, load.mixed) == ([], [])
    for champion, challenger in ((1, 2), (2, 1)):
        seen = shadow_totals(platform.database, champion=champion, challenger=challenger)
        assert seen.num_compared > 5, (champion, seen)
        assert (seen.num_failed, seen.mean_overlap) == (0, 0.0), "they have no product in common"
        assert seen.latency_ratio is not None
        assert 0.2 < seen.latency_ratio < 5, "one model, as many products"
