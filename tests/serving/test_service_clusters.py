"""Clusters and the map: over HTTP, and as a page in a real browser."""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import numpy as np
import pytest
from playwright.sync_api import Page, expect
from pydantic import SecretStr

from enclip.pipeline.open_release import OpenRelease
from enclip.serving.access import ApiKeys
from tests.serving.service_world import PHONE, DrawnShop, ReleaseMaker, Service, World, check_refused, mapped, until

KEY = "a-key-0123456789"
MARGIN = 1.1  # around the map, as map.js has it


@pytest.fixture(scope="module")
def release(make_release: ReleaseMaker) -> OpenRelease:
    """Release 7, over the whole shop."""
    return mapped(make_release(7))


@pytest.fixture(scope="module")
def service(start_service: Callable[..., Service], release: OpenRelease) -> Service:
    return start_service(World(alias=7, releases={7: release}))


@pytest.fixture
def withdraw(service: Service) -> Iterator[Callable[[frozenset[str]], None]]:
    """Withdraw products from the shop, and wait until the service knows; undone at the end."""

    def to(ids: frozenset[str]) -> None:
        service.world.withdrawn = ids
        service.wait_until(lambda state: state["num_withdrawn"] == len(ids))

    yield to
    to(frozenset())


def ids_of(answer: httpx.Response) -> list[str]:
    assert answer.status_code == 200, answer.text
    return [product["product_id"] for product in answer.json()["products"]]


def test_clusters_are_listed_with_what_they_hold(client: httpx.Client, release: OpenRelease, shop: DrawnShop) -> None:
    answer = client.get("/v1/clusters").json()
    assert (answer["release"], answer["num_products"], answer["has_map"], answer["has_suspects"]) == (7, 80, True, True)
    clusters = answer["clusters"]
    assert answer["num_clusters"] == len(clusters) == release.searcher.clusters.count
    sizes = [cluster["num_products"] for cluster in clusters]
    assert sizes == sorted(sizes, reverse=True) and sum(sizes) == 80
    suspicious = {suspect.product_id for suspect in release.suspects or ()}
    assert suspicious
    assignment = dict(zip(shop.products.product_id, release.searcher.clusters.assignment_N.tolist(), strict=True))
    for cluster in clusters:
        rows = release.searcher.clusters.assignment_N == cluster["cluster"]
        categories = Counter(shop.products.category[rows])
        assert cluster["num_products"] == rows.sum()
        assert cluster["purity"] == pytest.approx(max(categories.values()) / rows.sum())
        assert categories[cluster["category"]] == max(categories.values())
        assert cluster["num_suspects"] == sum(assignment[one] == cluster["cluster"] for one in suspicious)
        assert cluster["tightness"] == pytest.approx(release.searcher.closeness()[rows].mean(), abs=1e-3)
        assert len(cluster["pictures"]) == 6 and all(abs(value) <= 1 for value in cluster["centre"])


def test_a_list_of_clusters_comes_page_by_page(client: httpx.Client) -> None:
    whole = client.get("/v1/clusters").json()
    pages = [client.get("/v1/clusters", params={"k": 2, "offset": offset}).json() for offset in (0, 2)]
    assert [cluster for page in pages for cluster in page["clusters"]] == whole["clusters"]
    assert client.get("/v1/clusters", params={"offset": 1000}).json()["clusters"] == []


def test_a_cluster_s_products_come_nearest_first_page_by_page(client: httpx.Client, release: OpenRelease) -> None:
    cluster = client.get("/v1/clusters").json()["clusters"][0]
    whole = client.get(f"/v1/clusters/{cluster['cluster']}", params={"k": 100}).json()
    assert whole["cluster"] == cluster and whole["total"] == cluster["num_products"] == len(whole["products"])
    closeness = [product["closeness"] for product in whole["products"]]
    assert closeness == sorted(closeness, reverse=True)
    expected = release.products.product_id[release.searcher.clusters.assignment_N == cluster["cluster"]]
    assert {product["product_id"] for product in whole["products"]} == set(expected)
    pages = [
        client.get(f"/v1/clusters/{cluster['cluster']}", params={"k": 7, "offset": offset}).json()["products"]
        for offset in range(0, whole["total"], 7)
    ]
    assert [product for page in pages for product in page] == whole["products"]


def test_suspects_are_marked_and_can_be_had_alone(client: httpx.Client, release: OpenRelease) -> None:
    found: dict[str, list[dict[str, Any]]] = {}
    for cluster in range(release.searcher.clusters.count):
        whole = client.get(f"/v1/clusters/{cluster}", params={"k": 100}).json()["products"]
        alone = client.get(f"/v1/clusters/{cluster}", params={"k": 100, "suspects": True}).json()
        marked = {product["product_id"]: product for product in whole if product["suspects"]}
        assert {product["product_id"]: product for product in alone["products"]} == marked
        assert alone["total"] == len(marked)
        surest = [product["suspects"][0]["confidence"] for product in alone["products"]]
        assert surest == sorted(surest, reverse=True)
        found |= {product_id: product["suspects"] for product_id, product in marked.items()}
    audited = {(one.product_id, one.attribute, one.given, one.proposed) for one in release.suspects or ()}
    told = {
        (product_id, one["attribute"], one["given"], one["proposed"])
        for product_id, suspects in found.items()
        for one in suspects
    }
    assert told == audited


def test_the_map_holds_every_product_once(client: httpx.Client, release: OpenRelease) -> None:
    answer = client.get("/v1/map").json()
    assert (answer["release"], answer["num_products"]) == (7, 80)
    assert answer["product_id"] == release.products.product_id.tolist()
    assert answer["name"] == release.products.name.tolist()
    assert answer["cluster"] == release.searcher.clusters.assignment_N.tolist()
    assert release.atlas is not None
    place_N2 = np.stack([answer["x"], answer["y"]], axis=1)
    np.testing.assert_allclose(place_N2, release.atlas.position_N2, atol=1e-4)
    assert [answer["categories"][code] for code in answer["category"]] == release.products.category.tolist()
    counts = Counter(release.products.category)
    assert [counts[name] for name in answer["categories"]] == sorted(counts.values(), reverse=True)
    suspicious = {suspect.product_id for suspect in release.suspects or ()}
    assert {answer["product_id"][place] for place in answer["suspect"]} == suspicious


def test_a_part_of_the_map_is_the_same_part_again(client: httpx.Client) -> None:
    some = client.get("/v1/map", params={"k": 10}).json()
    assert some == client.get("/v1/map", params={"k": 10}).json()
    assert len(some["product_id"]) == len(some["x"]) == 10 and some["num_products"] == 80


def test_what_is_withdrawn_is_nowhere(client: httpx.Client, release: OpenRelease, withdraw: Callable) -> None:
    suspect = (release.suspects or ())[0]
    gone = frozenset({suspect.product_id, suspect.evidence[0], *release.products.product_id[:5]})
    withdraw(gone)
    clusters = client.get("/v1/clusters").json()
    assert clusters["num_products"] == 80 - len(gone)
    shown = {product["product_id"] for cluster in clusters["clusters"] for product in cluster["pictures"]}
    for cluster in clusters["clusters"]:
        whole = client.get(f"/v1/clusters/{cluster['cluster']}", params={"k": 100}).json()
        assert whole["total"] == cluster["num_products"]
        shown |= {product["product_id"] for product in whole["products"]}
        shown |= {one for product in whole["products"] for label in product["suspects"] for one in label["evidence"]}
    answer = client.get("/v1/map").json()
    assert answer["num_products"] == len(answer["product_id"]) == 80 - len(gone)
    assert not gone & (shown | set(answer["product_id"]))


def test_a_category_whose_products_are_all_withdrawn_is_not_on_the_map(
    client: httpx.Client, release: OpenRelease, withdraw: Callable
) -> None:
    withdraw(frozenset(release.products.product_id[release.products.category == "Watches"]))
    categories = client.get("/v1/map").json()["categories"]
    assert set(categories) == set(release.products.category) - {"Watches"} != set(release.products.category)


def test_a_cluster_whose_products_are_all_withdrawn_is_gone(
    client: httpx.Client, release: OpenRelease, withdraw: Callable
) -> None:
    assert client.get("/v1/clusters/2").status_code == 200
    withdraw(frozenset(release.products.product_id[release.searcher.clusters.assignment_N == 2]))
    assert 2 not in {cluster["cluster"] for cluster in client.get("/v1/clusters").json()["clusters"]}
    answer = client.get("/v1/clusters/2")
    assert answer.status_code == 404 and "no cluster 2" in answer.json()["detail"]


@pytest.mark.parametrize(
    ("path", "field"),
    [
        ("/v1/clusters?k=0", "k"),
        ("/v1/clusters?k=501", "k"),
        ("/v1/clusters?offset=-1", "offset"),
        ("/v1/clusters?offset=99999999999999999999", "offset"),
        ("/v1/clusters/-1", "cluster"),
        ("/v1/clusters/99999999999999999999", "cluster"),
        ("/v1/clusters/shoes", "cluster"),
        ("/v1/clusters/0?k=101", "k"),
        ("/v1/clusters/0?suspects=perhaps", "suspects"),
        ("/v1/map?k=20001", "k"),
        ("/v1/map?k=0", "k"),
    ],
)
def test_what_is_out_of_range_is_refused_by_name(client: httpx.Client, path: str, field: str) -> None:
    check_refused(client.get(path), field, "nput")


def test_a_cluster_that_is_not_there_is_a_404(client: httpx.Client) -> None:
    answer = client.get("/v1/clusters/4000")
    assert answer.status_code == 404
    assert answer.json()["detail"] == "Release 7 has no cluster 4000 with products in it."


@pytest.fixture(scope="module")
def before(start_service: Callable[..., Service], make_release: ReleaseMaker) -> Service:
    """A service with release 4, of before there were maps."""
    return start_service(World(alias=4, releases={4: make_release(4, rows=slice(0, 30))}))


def test_a_release_from_before_maps_tells_its_clusters_and_that_it_has_no_map(before: Service) -> None:
    with before.client() as client:
        answer = client.get("/v1/clusters").json()
        assert (answer["has_map"], answer["has_suspects"]) == (False, False)
        assert {cluster["centre"] for cluster in answer["clusters"]} == {None}
        assert {cluster["num_suspects"] for cluster in answer["clusters"]} == {None}
        assert len(ids_of(client.get(f"/v1/clusters/{answer['clusters'][0]['cluster']}"))) > 0
        refused = client.get("/v1/map")
    assert refused.status_code == 404 and "enclip refresh" in refused.json()["detail"]


def test_a_catalog_of_few_products_without_labels_has_clusters_and_a_map(
    start_service: Callable[..., Service], make_release: ReleaseMaker
) -> None:
    few = make_release(8, rows=slice(0, 3))
    none = np.full(3, "", dtype=object)
    labels = ("gender", "master_category", "sub_category", "article_type", "base_colour")
    few.searcher.products = replace(few.products, **dict.fromkeys(labels, none))
    service = start_service(World(alias=8, releases={8: mapped(few)}))
    with service.client() as client:
        answer = client.get("/v1/clusters").json()
        drawn = client.get("/v1/map").json()
    assert {cluster["purity"] for cluster in answer["clusters"]} == {None}
    assert [cluster["name"] for cluster in answer["clusters"]] == [
        f"Cluster {one['cluster']}" for one in answer["clusters"]
    ]
    assert drawn["categories"] == [] and drawn["category"] == [-1, -1, -1] and len(set(drawn["x"])) == 3


def colours_on(page: Page) -> dict[str, int]:
    """Colour → pixels of the canvas that show it at least nearly opaque, after it was drawn again."""
    return page.evaluate(
        """() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => {
          const canvas = document.getElementById("canvas");
          const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
          const counts = {};
          for (let at = 0; at < data.length; at += 4) {
            if (data[at + 3] < 200) continue;
            const colour = [data[at], data[at + 1], data[at + 2]].join(",");
            counts[colour] = (counts[colour] ?? 0) + 1;
          }
          done(counts);
        })))"""
    )


def dot_colours(page: Page) -> list[tuple[int, ...]]:
    """The colours of the list's clusters."""
    found = page.eval_on_selector_all(".open .dot", "dots => dots.map(dot => getComputedStyle(dot).backgroundColor)")
    return [tuple(int(value) for value in colour[4:-1].split(",")) for colour in found]


def pixels_of(page: Page, colour: tuple[int, ...]) -> int:
    """Points are drawn a little transparent, so their colour is met within a few steps."""
    return sum(
        count
        for seen, count in colours_on(page).items()
        if max(abs(int(one) - other) for one, other in zip(seen.split(","), colour, strict=True)) <= 4
    )


def place_of(page: Page, x: float, y: float) -> dict[str, float]:
    """Where a point of the whole map lies on the canvas."""
    box = page.locator("#canvas").bounding_box()
    assert box is not None
    scale = min(box["width"], box["height"]) / 2 / MARGIN
    return {"x": box["width"] / 2 + x * scale, "y": box["height"] / 2 - y * scale}


def test_the_map_is_drawn_in_the_clusters_colours(open_page, client: httpx.Client, screenshots: Path) -> None:
    page = open_page("/clusters")
    clusters = client.get("/v1/clusters").json()["clusters"]
    expect(page.locator(".open")).to_have_count(len(clusters))
    expect(page.locator("#release")).to_have_text("Release 7 · 80 products")
    assert page.locator(".open .label").all_inner_texts() == [cluster["name"] for cluster in clusters]
    for colour in dot_colours(page):
        assert pixels_of(page, colour) > 20, f"no point in {colour}"
    expect(page.locator("#legend")).to_be_hidden()
    page.screenshot(path=screenshots / "clusters.png")
    before = colours_on(page)
    page.locator("[name=colour][value=category]").check(force=True)
    expect(page.locator("#legend")).to_be_visible()
    assert colours_on(page) != before
    legend = page.locator("#legend li").all_inner_texts()
    assert legend[: len(set(legend) - {"others"})] == client.get("/v1/map").json()["categories"][:12]
    assert parse_qs(urlsplit(page.url).query) == {"colour": ["category"]}
    page.go_back()
    expect(page.locator("[name=colour][value=cluster]")).to_be_checked()
    assert colours_on(page) == before


def test_a_point_shows_its_product_and_opens_its_cluster(open_page, client: httpx.Client, screenshots: Path) -> None:
    page = open_page("/clusters")
    expect(page.locator(".open").first).to_be_visible()
    drawn = client.get("/v1/map").json()
    # The loneliest point, so that no other is nearer to the mouse.
    place_N2 = np.stack([drawn["x"], drawn["y"]], axis=1)
    distance_NN = np.linalg.norm(place_N2[:, None] - place_N2[None], axis=2)
    np.fill_diagonal(distance_NN, np.inf)
    place = int(distance_NN.min(axis=1).argmax())
    at = place_of(page, drawn["x"][place], drawn["y"][place])
    page.locator("#canvas").hover(position=at)
    expect(page.locator("#tip-name")).to_have_text(drawn["name"][place])
    until(page, "document.getElementById('tip-image').naturalWidth > 0")
    page.locator("#canvas").click(position=at)
    cluster = drawn["cluster"][place]
    expect(page.locator("#panel-of")).to_contain_text(f"cluster {cluster} ·")
    assert parse_qs(urlsplit(page.url).query) == {"cluster": [str(cluster)]}
    expect(page.locator("#back")).to_be_focused()
    page.screenshot(path=screenshots / "clusters-one.png")
    again = open_page("/clusters?" + urlsplit(page.url).query)
    expect(again.locator("#panel-of")).to_contain_text(f"cluster {cluster} ·")
    page.go_back()
    expect(page.locator("#list")).to_be_visible()
    expect(page.locator("#panel")).to_be_hidden()


def test_a_cluster_opens_at_its_top_however_far_another_was_scrolled(open_page) -> None:
    page = open_page("/clusters?cluster=0")
    expect(page.locator("#panel-of")).to_contain_text("cluster 0 ·")
    page.evaluate("scrollTo(0, document.body.scrollHeight)")
    assert page.locator("#side").evaluate("side => side.getBoundingClientRect().top") < 0
    page.locator('.open[data-cluster="1"]').dispatch_event("click")  # the list is hidden; a point would do the same
    expect(page.locator("#panel-of")).to_contain_text("cluster 1 ·")
    until(page, "document.getElementById('side').getBoundingClientRect().top > -1")


def test_a_chosen_cluster_stands_out(open_page, client: httpx.Client) -> None:
    page = open_page("/clusters")
    expect(page.locator(".open").first).to_be_visible()
    first, second, *_ = dot_colours(page)
    assert pixels_of(page, second) > 20
    page.locator(".open").first.click()
    expect(page.locator("#panel")).to_be_visible()
    assert pixels_of(page, first) > 20 and pixels_of(page, second) < 5


def test_a_cluster_s_panel_says_what_it_holds_and_what_looks_wrong(
    open_page, client: httpx.Client, screenshots: Path
) -> None:
    clusters = client.get("/v1/clusters").json()["clusters"]
    number = max(clusters, key=lambda cluster: cluster["num_suspects"])["cluster"]
    answer = client.get(f"/v1/clusters/{number}", params={"k": 100}).json()
    suspects = client.get(f"/v1/clusters/{number}", params={"k": 100, "suspects": True}).json()
    assert suspects["total"] > 1
    page = open_page(f"/clusters?cluster={number}")
    expect(page.locator("#panel-name")).to_have_text(answer["cluster"]["name"])
    expect(page.locator("#panel-purity")).to_contain_text(f"{round(100 * answer['cluster']['purity'])}%")
    expect(page.locator(".thumbs li")).to_have_count(min(12, answer["total"]))
    names = [product["name"] for product in answer["products"]]
    assert page.locator(".thumbs .label").all_text_contents() == names[:12]
    page.locator("#panel-more").click()
    expect(page.locator(".thumbs li")).to_have_count(min(24, answer["total"]))
    assert page.locator(".thumbs .label").all_text_contents() == names[:24]
    first = suspects["products"][0]
    line = page.locator(".suspects li").first
    for part in (first["name"], first["suspects"][0]["given"], first["suspects"][0]["proposed"]):
        expect(line).to_contain_text(part)
    expect(line.locator(".strip a")).to_have_count(sum(len(one["evidence"]) for one in first["suspects"]))
    page.screenshot(path=screenshots / "clusters-suspects.png", full_page=True)
    line.get_by_text("Search like this").click()
    expect(page.locator("h1")).to_have_text(f"Like {first['name']}")


def test_suspects_can_be_marked_on_the_map(open_page) -> None:
    page = open_page("/clusters")
    expect(page.locator("#marking")).to_be_visible()
    ink = page.evaluate("getComputedStyle(document.body).color")
    colour = tuple(int(value) for value in ink[4:-1].split(","))
    without = pixels_of(page, colour)
    page.locator("#mark").check()
    assert pixels_of(page, colour) > without + 50


def test_the_list_is_sorted_by_any_column(open_page, client: httpx.Client) -> None:
    page = open_page("/clusters")
    expect(page.locator(".open").first).to_be_visible()
    clusters = client.get("/v1/clusters").json()["clusters"]
    for column in ("purity", "num_suspects", "num_products"):
        for direction in ("descending", "ascending"):
            button = page.locator(f"[data-sort={column}]")
            button.click()
            expect(page.locator("th", has=button)).to_have_attribute("aria-sort", direction)
            shown = page.eval_on_selector_all(".open", "rows => rows.map(row => Number(row.dataset.cluster))")
            values = {cluster["cluster"]: cluster[column] for cluster in clusters}
            ordered = [values[cluster] for cluster in shown]
            assert ordered == sorted(values.values(), reverse=direction == "descending")


def test_everything_by_keyboard(open_page) -> None:
    page = open_page("/clusters")
    expect(page.locator(".open").first).to_be_visible()
    page.locator(".open").nth(1).focus()
    page.keyboard.press("Enter")
    expect(page.locator("#back")).to_be_focused()
    page.keyboard.press("Escape")
    expect(page.locator(".open").nth(1)).to_be_focused()
    whole = colours_on(page)
    page.locator("#canvas").focus()
    for key in ("+", "ArrowRight", "ArrowUp"):
        before = colours_on(page)
        page.keyboard.press(key)
        assert colours_on(page) != before, key
    page.keyboard.press("0")
    assert colours_on(page) == whole


def test_the_map_is_moved_by_wheel_and_hand(open_page) -> None:
    page = open_page("/clusters")
    expect(page.locator(".open").first).to_be_visible()
    whole = colours_on(page)
    page.locator("#canvas").hover(position={"x": 300, "y": 300})
    page.mouse.wheel(0, -240)
    page.wait_for_timeout(100)
    closer = colours_on(page)
    assert closer != whole
    page.mouse.down()
    page.mouse.move(500, 500, steps=5)
    page.mouse.up()
    assert colours_on(page) != closer
    expect(page.locator("#panel")).to_be_hidden()  # who drags has chosen nothing
    page.locator("#whole").click()
    assert colours_on(page) == whole


def test_two_fingers_zoom(open_page) -> None:
    page = open_page("/clusters", viewport=PHONE, is_mobile=True, has_touch=True)
    expect(page.locator(".open").first).to_be_visible()
    box = page.locator("#canvas").bounding_box()
    whole = colours_on(page)
    hands = page.context.new_cdp_session(page)

    def touch(kind: str, *spreads: int) -> None:
        middle = {"x": box["x"] + box["width"] / 2, "y": box["y"] + box["height"] / 2}
        points = [{"x": middle["x"] + spread, "y": middle["y"]} for spread in spreads]
        hands.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

    touch("touchStart", -30, 30)
    for spread in (50, 70, 90):
        touch("touchMove", -spread, spread)
    touch("touchEnd")
    assert colours_on(page) != whole
    expect(page.locator("#panel")).to_be_hidden()


def test_it_fits_a_phone(open_page, screenshots: Path) -> None:
    page = open_page("/clusters", viewport=PHONE, is_mobile=True, has_touch=True, device_scale_factor=2)
    expect(page.locator(".open").first).to_be_visible()
    assert sum(colours_on(page).values()) > 500
    page.screenshot(path=screenshots / "clusters-phone.png")
    page.locator(".open").first.click()
    expect(page.locator("#panel")).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth") == PHONE["width"]
    small = page.eval_on_selector_all(
        "main button, .pill, .choice span",
        "all => all.filter(e => e.offsetParent && e.getBoundingClientRect().height < 32).map(e => e.id)",
    )
    assert small == [], "every target is large enough for a finger"
    page.screenshot(path=screenshots / "clusters-phone-one.png", full_page=True)


def test_it_can_be_read_at_night(open_page, screenshots: Path) -> None:
    page = open_page("/clusters", color_scheme="dark")
    expect(page.locator(".open").first).to_be_visible()
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert max(int(value) for value in background[4:-1].split(",")) < 60
    assert sum(colours_on(page).values()) > 500
    page.screenshot(path=screenshots / "clusters-dark.png")


def test_a_release_without_a_map_says_so_and_shows_its_clusters(open_page, before: Service) -> None:
    page = open_page("/clusters", url=before.url)
    expect(page.locator("#mapless")).to_contain_text("Release 4 was built before maps were stored.")
    expect(page.locator("#map")).to_be_hidden()
    expect(page.locator("#suspects-head")).to_be_hidden()
    page.locator(".open").first.click()
    expect(page.locator("#panel-suspects-says")).to_contain_text("Release 4 was built before these were stored.")
    expect(page.locator(".thumbs li").first).to_be_visible()


def test_a_link_to_a_cluster_that_is_gone_says_so(open_page) -> None:
    page = open_page("/clusters?cluster=4000", expect_errors=True)
    expect(page.locator("#notice-text")).to_have_text("Release 7 has no cluster 4000 with products in it.")
    page.locator(".open").first.click()
    expect(page.locator("#panel")).to_be_visible()
    expect(page.locator("#notice")).to_be_hidden()


def test_names_are_words_and_never_markup(open_page, start_service, make_release: ReleaseMaker) -> None:
    hostile = make_release(9, rows=slice(0, 30))
    name = "<img src=x onerror=alert(1)> \"quoted\" & 'co'"
    words = np.full(30, name, dtype=object)
    hostile.searcher.products = replace(hostile.products, name=words, article_type=words, sub_category=words)
    service = start_service(World(alias=9, releases={9: mapped(hostile)}))
    page = open_page("/clusters?colour=category", url=service.url)
    expect(page.locator(".open .label").first).to_contain_text(name)
    expect(page.locator("#legend li")).to_have_text([name])
    page.locator(".open").first.click()
    expect(page.locator(".thumbs .label").first).to_have_text(name)
    assert page.locator("img[src=x]").count() == 0


def test_an_open_page_follows_another_release(open_page, start_service, make_release: ReleaseMaker) -> None:
    releases = {5: mapped(make_release(5, rows=slice(0, 40))), 6: mapped(make_release(6, seed=6))}
    service = start_service(World(alias=5, releases=releases))
    page = open_page("/clusters", url=service.url)
    expect(page.locator("#release")).to_have_text("Release 5 · 40 products")
    service.world.alias = 6
    service.wait_until(lambda state: state["release"] == 6)
    page.locator(".open").first.click()
    expect(page.locator("#release")).to_have_text("Release 6 · 80 products")
    expect(page.locator("#panel")).to_be_visible()


def test_a_locked_service_asks_for_its_key(open_page, start_service, release: OpenRelease) -> None:
    keys = ApiKeys.parse(SecretStr(KEY))
    service = start_service(World(alias=7, releases={7: release}), keys=keys)
    page = open_page("/clusters", url=service.url, expect_errors=True)
    expect(page.locator("#unlock-text")).to_have_text("The service asks for a key.")
    expect(page.locator("#key")).to_be_focused()
    page.locator("#key").fill("not-the-key-0123456789")
    page.keyboard.press("Enter")
    expect(page.locator("#unlock-text")).to_have_text("The service does not know this key.")
    page.locator("#key").fill(KEY)
    page.keyboard.press("Enter")
    expect(page.locator(".open").first).to_be_visible()
    expect(page.locator("#unlock")).to_be_hidden()
    assert sum(colours_on(page).values()) > 500
