"""The client against the real service: typed answers, errors in the service's words, bounded retries, pages."""

import json
import pickle
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest

from enclip.client import (
    JudgementRequest,
    ReleaseChanged,
    SearchClient,
    SearchFilters,
    SearchRequest,
    SearchWeights,
    ServiceError,
)
from enclip.database import open_database
from enclip.errors import ConfigError
from enclip.pipeline.open_release import OpenRelease
from tests.serving.service_world import NUM_PRODUCTS, DrawnShop, ReleaseMaker, Service, World, mapped


@pytest.fixture
def search_client(service: Service) -> Iterator[SearchClient]:
    with SearchClient(service.url) as opened:
        yield opened


class Listener:
    """A server that answers a fixed list of (status, headers, body), and keeps the requests' headers and bodies."""

    def __init__(self) -> None:
        self.answers: list[tuple[int, dict[str, str], bytes]] = []
        self.heard: list[tuple[dict[str, str], bytes]] = []
        listener = self

        class Handler(BaseHTTPRequestHandler):
            def _answer(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                listener.heard.append(({name.lower(): value for name, value in self.headers.items()}, body))
                status, headers, content = listener.answers.pop(0)
                self.send_response(status)
                for name, value in {**headers, "Content-Length": str(len(content))}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(content)

            do_GET = do_POST = _answer

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture
def listener() -> Iterator[Listener]:
    opened = Listener()
    yield opened
    opened.server.shutdown()
    opened.server.server_close()


FOUND = (200, {}, b'{"release": 3, "took_ms": 1.0, "results": []}')


def busy(status: int = 429, **headers: str) -> tuple[int, dict[str, str], bytes]:
    body = json.dumps({"status": status, "detail": "Come back later."}).encode()
    return status, {"Content-Type": "application/problem+json", "X-Request-ID": "abc", **headers}, body


def test_a_search_is_explained(search_client: SearchClient) -> None:
    request = SearchRequest(text="navy blue shirt", k=3)
    hit = search_client.search(request).results[-1]
    found = search_client.explain(request, hit.product_id)
    assert found.product.product_id == hit.product_id
    assert sum(found.parts.values()) == pytest.approx(hit.score, abs=1e-4)


def test_it_needs_neither_torch_nor_mlflow_nor_a_server() -> None:
    heavy = ("torch", "mlflow", "faiss", "fastapi", "uvicorn", "sklearn", "pandas", "PIL")
    program = f"import enclip.client, sys; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.strip() == "[]"


def test_answers_are_those_of_the_service(
    search_client: SearchClient, client: httpx.Client, release: OpenRelease, shop: DrawnShop
) -> None:
    words = search_client.search("navy blue shirt")
    assert [hit.product_id for hit in words.results] == list(release.search(text="navy blue shirt", k=20).product_ids)
    assert words.release == 3
    picture = shop.picture_of(shop.products.product_id[4])
    request = SearchRequest(
        text="red watch",
        image=picture,
        weights=SearchWeights(text=2.0, image=1.0),
        filters=SearchFilters(gender=("Men", "Women")),
        k=5,
    )
    expected = release.search(
        text="red watch",
        image=picture,
        weights={"text": 2.0, "image": 1.0},
        filters=SearchFilters(gender=("Men", "Women")).to_filters(),
        k=5,
    )
    assert [hit.product_id for hit in search_client.search(request).results] == list(expected.product_ids)
    together = search_client.search_batch([request, "bag"])
    assert together.answers[0].results == search_client.search(request).results
    assert together.answers[1].results == search_client.search("bag").results
    assert search_client.catalog().model_dump(mode="json") == client.get("/v1/catalog").json()
    assert search_client.ready().release == 3


def test_similar_takes_filters(search_client: SearchClient, release: OpenRelease, shop: DrawnShop) -> None:
    product_id = str(shop.products.product_id[4])
    filters = SearchFilters(gender=("Women", "Unisex"))
    answer = search_client.similar(product_id, k=9, filters=filters)
    assert answer.product.product_id == product_id
    assert [hit.product_id for hit in answer.results] == list(
        release.similar(product_id, k=9, filters=filters.to_filters()).product_ids
    )


def test_texts_and_pictures_are_embedded(search_client: SearchClient, shop: DrawnShop) -> None:
    product_id = str(shop.products.product_id[4])
    answer = search_client.embed(["navy blue shirt", shop.picture_of(product_id)])
    assert [len(embedding) for embedding in answer.embeddings] == [sum(answer.dims)] * 2
    words, picture = answer.embeddings
    score = answer.weights[0] * sum(a * b for a, b in zip(words, picture, strict=True))  # one member
    found = search_client.search(SearchRequest(text="navy blue shirt", k=100)).results
    assert score == pytest.approx(next(hit.score for hit in found if hit.product_id == product_id), abs=2e-3)


def test_a_refusal_says_what_the_service_says(search_client: SearchClient) -> None:
    with pytest.raises(ServiceError, match=r"similar/a%2Fb\?k=3 answered 404 \(request .+\): Release 3 has no") as gone:
        search_client.similar("a/b", k=3)
    assert (gone.value.status, gone.value.detail) == (404, "Release 3 has no such product.")
    assert gone.value.request_id and gone.value.request_id in str(gone.value)
    with pytest.raises(ServiceError, match=r"searches\.1: .*picture cannot be read") as unread:
        search_client.search_batch(["shirt", SearchRequest(image=b"no picture")])
    assert unread.value.status == 422


def test_errors_survive_a_process_pool(search_client: SearchClient) -> None:
    with pytest.raises(ServiceError) as gone:
        search_client.similar("nobody")
    copy = pickle.loads(pickle.dumps(gone.value))
    assert (type(copy), str(copy), vars(copy)) == (ServiceError, str(gone.value), vars(gone.value))


def test_a_service_without_a_release_is_waited_for(release: OpenRelease, start_service: Callable[..., Service]) -> None:
    world = World(alias=None, releases={3: release})
    service = start_service(world)
    service.wait_until(lambda state: state["problem"] != "")
    waits: list[float] = []

    def promote(wait_s: float) -> None:
        waits.append(wait_s)
        if len(waits) == 2:
            world.alias = 3
            service.wait_until(lambda state: bool(state["ready"]))

    with SearchClient(service.url, sleep=promote) as client:
        assert not client.ready().ready
        assert client.search("shirt").release == 3
    assert waits == [2.0, 2.0]


def test_patience_ends(start_service: Callable[..., Service]) -> None:
    service = start_service(World(alias=None))
    service.wait_until(lambda state: state["problem"] != "")
    waits: list[float] = []
    with (
        SearchClient(service.url, max_retries=2, sleep=waits.append) as client,
        pytest.raises(ServiceError, match=r"No release is promoted yet\.") as refused,
    ):
        client.search("shirt")
    assert (refused.value.status, waits) == (503, [2.0, 2.0])


@pytest.mark.parametrize("headers", [{}, {"Retry-After": "3600"}, {"Retry-After": "soon"}])
def test_only_a_short_wait_that_was_named_is_waited(listener: Listener, headers: dict[str, str]) -> None:
    listener.answers = [busy(503, **headers)]
    with SearchClient(listener.url, sleep=pytest.fail) as client, pytest.raises(ServiceError) as refused:
        client.search("shirt")
    assert (refused.value.detail, refused.value.request_id) == ("Come back later.", "abc")


def test_the_same_request_is_sent_again(listener: Listener) -> None:
    listener.answers = [busy(429, **{"Retry-After": "1"}), busy(503, **{"Retry-After": "0"}), FOUND]
    waits: list[float] = []
    with SearchClient(listener.url, sleep=waits.append) as client:
        client.search(SearchRequest(text="shirt", k=3))
    assert waits == [1.0, 0.0]
    assert [json.loads(body) for _, body in listener.heard] == [{"text": "shirt", "k": 3}] * 3


def test_the_key_is_a_bearer_s_and_in_no_error(listener: Listener) -> None:
    listener.answers = [FOUND, busy(401)]
    with SearchClient(listener.url + "/shop/", api_key="s3cret") as client:
        client.search("shirt")
        with pytest.raises(ServiceError) as refused:
            client.search("shirt")
    assert [headers["authorization"] for headers, _ in listener.heard] == ["Bearer s3cret"] * 2
    assert "s3cret" not in str(refused.value) + repr(refused.value)
    for key in ("s3cret\n", "", "s3 cret", "schlüssel"):
        with pytest.raises(ConfigError) as error:
            SearchClient(listener.url, api_key=key)
        assert "s3" not in str(error.value)


def test_without_a_key_none_is_sent(listener: Listener) -> None:
    listener.answers = [FOUND]
    with SearchClient(listener.url) as client:
        client.search("shirt")
    assert "authorization" not in listener.heard[0][0]


@pytest.mark.parametrize("answer", [(200, {}, b"<html>"), (200, {}, b"{}"), (302, {"Location": "/login"}, b"")])
def test_what_is_no_answer_of_a_search_is_said_to_be_none(listener: Listener, answer: Any) -> None:
    listener.answers = [answer]
    with SearchClient(listener.url) as client, pytest.raises(ServiceError, match=rf"v1/search answered {answer[0]}"):
        client.search("shirt")


def test_nobody_there_is_one_clear_error(listener: Listener) -> None:
    listener.server.shutdown()
    listener.server.server_close()
    with (
        SearchClient(listener.url) as client,
        pytest.raises(ServiceError, match=r"No answer from .*ConnectError") as no,
    ):
        client.search("shirt")
    assert (no.value.status, no.value.request_id) == (0, "")


@pytest.mark.parametrize("url", ["127.0.0.1:8000", "shop", "", "ftp://shop", "http://", "http://me:s3cret@shop"])
def test_what_is_no_url_of_a_service_is_refused_at_once(url: str) -> None:
    with pytest.raises(ConfigError, match="URL") as error:
        SearchClient(url)
    assert "s3cret" not in str(error.value)


def test_pages_are_the_catalog_each_product_once(search_client: SearchClient, release: OpenRelease) -> None:
    pages = list(search_client.pages(SearchRequest(text="navy blue shirt", k=30)))
    assert [len(page.results) for page in pages] == [30, 30, 20]
    found = [hit.product_id for page in pages for hit in page.results]
    assert len(set(found)) == NUM_PRODUCTS
    assert found[:30] == list(release.search(text="navy blue shirt", k=30).product_ids)
    assert [len(page.results) for page in search_client.pages(SearchRequest(text="bag", k=40, offset=20))] == [40, 20]
    assert not list(search_client.pages(SearchRequest(text="bag", filters=SearchFilters(colour=("none",)))))


def test_pages_end_with_the_release_that_gave_them(
    make_release: ReleaseMaker, start_service: Callable[..., Service]
) -> None:
    world = World(alias=1, releases={1: make_release(1, seed=1), 2: make_release(2, seed=2)})
    service = start_service(world)
    with SearchClient(service.url) as client:
        pages = client.pages(SearchRequest(text="shirt", k=10))
        assert next(pages).release == 1
        world.alias = 2
        service.wait_until(lambda state: state["release"] == 2)
        with pytest.raises(ReleaseChanged, match="Release 2 answers for the products from place 11 on, but release 1"):
            next(pages)


def test_the_readme_s_examples_work(
    service: Service, client: httpx.Client, capsys: pytest.CaptureFixture[str], pytestconfig: pytest.Config
) -> None:
    readme = (pytestconfig.rootpath / "README.md").read_text()
    section = readme.split("## From another program")[1].split("\n## ")[0]
    asked = re.findall(r"curl http://127\.0\.0\.1:8000(\S+) -H '(\S+): (\S+)' \\\n  -d '(.+)'", section)
    assert [path for path, *_ in asked] == ["/v1/search", "/v1/search/batch", "/v1/embed"]
    for path, name, value, body in asked:
        assert client.post(path, content=body, headers={name: value}).status_code == 200
    (program,) = re.findall(r"```python\n(.+?)```", section, re.DOTALL)
    exec(program.replace("http://127.0.0.1:8000", service.url), {})
    assert len(capsys.readouterr().out.splitlines()) == 5 + NUM_PRODUCTS // 20


def test_clusters_and_the_map_are_those_of_the_service(
    make_release: ReleaseMaker, start_service: Callable[..., Service]
) -> None:
    release = mapped(make_release(3))
    service = start_service(World(alias=3, releases={3: release}))
    with SearchClient(service.url) as client, service.client() as http:
        found = client.clusters()
        assert found.model_dump(mode="json") == http.get("/v1/clusters").json()
        assert client.clusters(k=1, offset=1).clusters == found.clusters[1:2]
        largest = found.clusters[0]
        page = client.cluster(largest.cluster, k=3, offset=2)
        asked = http.get(f"/v1/clusters/{largest.cluster}", params={"k": 3, "offset": 2})
        assert page.model_dump(mode="json") == asked.json()
        marked = [client.cluster(one.cluster, k=100, suspects=True) for one in found.clusters]
        assert [one.total for one in marked] == [one.num_suspects for one in found.clusters]
        assert sum(one.total for one in marked) > 0
        assert client.map().model_dump(mode="json") == http.get("/v1/map").json()
        assert len(client.map(k=7).product_id) == 7
        with pytest.raises(ServiceError, match="has no cluster 99") as gone:
            client.cluster(99)
    assert gone.value.status == 404


def test_releases_are_compared_and_judged(
    release: OpenRelease, make_release: ReleaseMaker, start_service: Callable[..., Service], tmp_path: Path
) -> None:
    world = World(alias=3, releases={3: release, 4: make_release(4, seed=4)}, other_aliases={"challenger": 4})
    engine = open_database(f"sqlite:///{tmp_path}/catalog.db")
    service = start_service(world, judgements=engine)
    with SearchClient(service.url) as client:
        assert [found.version for found in client.releases().releases] == [4, 3]
        answer = client.compare(SearchRequest(text="navy blue shirt", k=5))
        assert (answer.left.release, answer.right.release) == (3, 4)
        assert [hit.product_id for hit in answer.left.results] == list(
            release.search(text="navy blue shirt", k=5).product_ids
        )
        assert client.compare("bag", left=4, right="champion").left.release == 4
        stored = client.judge(JudgementRequest(text="navy blue shirt", left="champion", right=4, verdict="worse"))
        assert (stored.left, stored.right, stored.verdict) == (3, 4, "worse")
        hit = answer.left.results[0]
        client.judge(
            JudgementRequest(text="navy blue shirt", release=3, product_id=hit.product_id, verdict="good", by="ann")
        )
        (pair,) = client.said(text="Navy blue  shirt").judgements
        assert (pair.left, pair.right, pair.verdict) == (3, 4, "worse")
        (result,) = client.said(text="navy blue shirt", by="ann").judgements
        assert (result.product_id, result.verdict) == (hit.product_id, "good")
        assert client.said(like=hit.product_id, by="ann").judgements == []
        summary = client.judgements()
        assert [(found.release, found.against, found.wins) for found in summary.standings] == [(4, 3, 1)]
        assert (summary.num_queries, summary.num_good) == (1, 1)
        with pytest.raises(ServiceError, match="No release is called 'best'"):
            client.compare("bag", left="best")
    service.stop()
    engine.dispose()
