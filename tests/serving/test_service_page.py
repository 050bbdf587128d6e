"""The page, in a real browser: no script error, no request to another host, everything by keyboard too."""

from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import httpx
from playwright.sync_api import Page, expect

from tests.serving.service_world import PHONE, DrawnShop, ReleaseMaker, World, until


def figure(value: float) -> str:
    return f"{value:.3f}".replace("-", "−")


def shown_ids(page: Page) -> list[str]:
    return page.eval_on_selector_all(".face", "faces => faces.map(face => face.dataset.product)")


def pictures_shown(page: Page) -> int:
    return page.eval_on_selector_all(
        ".well img", "images => images.filter(image => image.complete && image.naturalWidth > 0).length"
    )


def test_the_window_invites(open_page, shop: DrawnShop, screenshots: Path) -> None:
    page = open_page("/")
    expect(page.locator(".card")).to_have_count(24)
    expect(page.locator("#release")).to_have_text(f"Release 3 · {len(shop.products)} products")
    expect(page.locator("#examples button")).to_have_count(6)
    until(page, "[...document.images].filter(i => i.complete && i.naturalWidth).length > 10")
    page.screenshot(path=screenshots / "page-window.png")
    page.locator("#examples button").first.click()
    expect(page.locator("#summary")).to_contain_text("the best 24")
    assert page.locator("#text").input_value() in page.locator("h1").inner_text()


def test_words_are_searched_while_typing_and_live_in_the_address(open_page, release, screenshots: Path) -> None:
    page = open_page("/")
    page.locator("#text").press_sequentially("navy blue shirt", delay=10)
    expect(page.locator("h1")).to_have_text("navy blue shirt")
    assert shown_ids(page) == list(release.search(text="navy blue shirt", k=24).product_ids)
    until(page, "document.querySelector('.well img').naturalWidth > 0")
    assert pictures_shown(page) > 0
    page.screenshot(path=screenshots / "page-search.png")
    again = open_page("/" + "?" + urlsplit(page.url).query)
    expect(again.locator("h1")).to_have_text("navy blue shirt")
    assert shown_ids(again) == shown_ids(page)


def test_more_like_this_and_back(open_page, release) -> None:
    page = open_page("/?q=bag")
    expect(page.locator("h1")).to_have_text("bag")
    chosen = shown_ids(page)[3]
    page.locator(".face").nth(3).click()
    expect(page.locator("h1")).to_contain_text("Like ")
    assert shown_ids(page) == list(release.similar(chosen, k=24).product_ids)
    expect(page.locator("#token")).to_be_visible()
    page.go_back()
    expect(page.locator("h1")).to_have_text("bag")
    page.go_forward()
    expect(page.locator("h1")).to_contain_text("Like ")
    page.locator("#token-clear").click()
    expect(page.locator("h1")).to_have_text("From the catalog")


def test_a_picture_from_disk_with_and_without_words(open_page, shop: DrawnShop, screenshots: Path) -> None:
    page = open_page("/")
    expect(page.locator(".card")).to_have_count(24)
    wanted = shop.products.product_id[5]
    file = {"name": "phone.jpg", "mimeType": "image/jpeg", "buffer": shop.picture_of(wanted)}
    page.set_input_files("#file", file)
    expect(page.locator("h1")).to_have_text("Like your picture")
    assert wanted in shown_ids(page)[:3]
    expect(page.locator("#blend")).to_be_hidden()
    only_picture = shown_ids(page)
    page.locator("#text").fill("red dress")
    page.keyboard.press("Enter")
    expect(page.locator("h1")).to_have_text("red dress, like your picture")
    expect(page.locator("#blend")).to_be_visible()
    page.screenshot(path=screenshots / "page-picture.png")
    with page.expect_response("**/v1/search"):
        page.locator("#balance").focus()
        page.keyboard.press("End")
    until(page, f"document.querySelector('.face').dataset.product === '{only_picture[0]}'")
    page.locator("#token-clear").click()
    expect(page.locator("h1")).to_have_text("red dress")


def test_what_is_no_picture_is_said(open_page) -> None:
    page = open_page("/")
    page.set_input_files("#file", {"name": "a.jpg", "mimeType": "image/jpeg", "buffer": b"not a picture"})
    expect(page.locator("#notice-text")).to_contain_text("cannot be read as a picture")


def test_filters_by_choice_and_by_colour(open_page, shop: DrawnShop, screenshots: Path) -> None:
    page = open_page("/?q=shirt")
    page.locator("#gender").select_option("Women")
    expect(page.locator("#clear")).to_be_visible()
    until(page, "location.search.includes('gender=Women')")
    swatch = page.locator(".swatch").first
    colour = swatch.get_attribute("data-colour")
    swatch.click()
    expect(swatch).to_have_attribute("aria-pressed", "true")
    passing = [row.product_id for row in shop.products if (row.gender, row.base_colour) == ("Women", colour)]
    shown = "[...document.querySelectorAll('.face')].map(face => face.dataset.product)"
    until(page, f"(ids => ids.length && ids.every(id => {passing}.includes(id)))({shown})")
    page.screenshot(path=screenshots / "page-filters.png")
    page.locator("#clear").click()
    expect(page.locator(".card")).to_have_count(24)


def test_filters_that_nothing_passes_say_so(open_page) -> None:
    page = open_page("/?q=shirt&colour=Nothing")
    expect(page.locator("#summary")).to_have_text("Nothing in the catalog passes these filters. Take one of them away.")


def test_more_results_keep_those_that_are_there(open_page, shop: DrawnShop) -> None:
    page = open_page("/?q=shirt")
    expect(page.locator(".card")).to_have_count(24)
    first = shown_ids(page)
    page.locator("#more").click()
    expect(page.locator(".card")).to_have_count(48)
    assert shown_ids(page)[:24] == first
    page.locator("#more").click()
    expect(page.locator(".card")).to_have_count(len(shop.products))
    expect(page.locator("#more")).to_be_hidden()


def test_everything_by_keyboard(open_page) -> None:
    page = open_page("/")
    expect(page.locator(".card")).to_have_count(24)
    page.keyboard.press("/")
    expect(page.locator("#text")).to_be_focused()
    page.keyboard.type("watch")
    page.keyboard.press("Enter")
    expect(page.locator("h1")).to_have_text("watch")
    page.keyboard.press("ArrowDown")
    expect(page.locator(".face").first).to_be_focused()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowDown")
    columns = page.evaluate(
        "getComputedStyle(document.querySelector('#results')).gridTemplateColumns.split(' ').length"
    )
    expect(page.locator(".face").nth(1 + columns)).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("h1")).to_contain_text("Like ")
    page.keyboard.press("Escape")
    expect(page.locator("h1")).to_have_text("From the catalog")
    expect(page.locator("#text")).to_be_focused()


def test_it_fits_a_phone(open_page, screenshots: Path) -> None:
    page = open_page("/?q=shoes", viewport=PHONE, is_mobile=True, has_touch=True, device_scale_factor=2)
    expect(page.locator(".card")).to_have_count(24)
    assert page.evaluate("document.documentElement.scrollWidth") == PHONE["width"]
    small = page.eval_on_selector_all(
        "main button, .go, .picture, .pill, .swatch",
        "all => all.filter(e => e.offsetParent && e.getBoundingClientRect().height < 32).map(e => e.className)",
    )
    assert small == [], "every target is large enough for a finger"
    until(page, "document.querySelector('.well img').naturalWidth > 0")
    page.screenshot(path=screenshots / "page-phone.png")


def test_it_can_be_read_at_night(open_page, screenshots: Path) -> None:
    page = open_page("/?q=dress", color_scheme="dark")
    expect(page.locator(".card")).to_have_count(24)
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert max(int(value) for value in background[4:-1].split(",")) < 60
    page.screenshot(path=screenshots / "page-dark.png")


def test_names_from_a_catalog_are_words_and_never_markup(open_page, start_service, make_release, shop) -> None:
    import dataclasses

    import numpy as np

    release = make_release(9, rows=slice(0, 30))
    name = "<img src=x onerror=alert(1)> \"quoted\" & 'co'"
    hostile = dataclasses.replace(release.searcher.products, name=np.array([name] * 30, dtype=object))
    release.searcher.products = hostile
    service = start_service(World(alias=9, releases={9: release}))
    page = open_page("/?q=shirt", url=service.url)
    expect(page.locator(".name").first).to_have_text(name)
    assert page.locator(".name img").count() == 0


def test_a_service_that_starts_is_waited_for(open_page, start_service, make_release: ReleaseMaker) -> None:
    world = World(alias=None, releases={4: make_release(4, rows=slice(0, 30))})
    service = start_service(world)
    page = open_page("/?q=shirt", url=service.url, expect_errors=True)
    expect(page.locator("#notice-text")).to_contain_text("No release is promoted yet.")
    world.alias = 4
    expect(page.locator(".card")).to_have_count(24, timeout=10_000)
    expect(page.locator("#notice")).to_be_hidden()
    expect(page.locator("#release")).to_contain_text("Release 4")


def test_an_open_page_notices_another_release(open_page, start_service, make_release: ReleaseMaker) -> None:
    world = World(alias=5, releases={5: make_release(5, rows=slice(0, 40)), 6: make_release(6, seed=6)})
    service = start_service(world)
    page = open_page("/?q=shirt", url=service.url)
    expect(page.locator("#release")).to_have_text("Release 5 · 40 products")
    world.alias = 6
    service.wait_until(lambda state: state["release"] == 6)
    page.locator("#text").fill("bag")
    expect(page.locator("#release")).to_have_text("Release 6 · 80 products")


def test_the_api_s_page_says_what_the_api_takes(open_page, client: httpx.Client, screenshots: Path) -> None:
    page = open_page("/docs")
    paths = client.get("/openapi.json").json()["paths"]
    expect(page.locator(".operation")).to_have_count(sum(map(len, paths.values())))
    search = page.locator(".operation", has=page.get_by_text("/v1/search", exact=True))
    fields = set(search.locator("tbody td:first-child").all_inner_texts())
    assert {"text", "image", "k", "weights.image", "filters.colour", "header X-Request-Timeout-Ms"} <= fields
    expect(search.locator(".answers")).to_contain_text("429: Too many searches")
    expect(search).to_contain_text("at most 1000 characters")
    expect(search).to_contain_text("at most 50 values")
    page.screenshot(path=screenshots / "page-docs.png")


def test_a_product_is_searched_with_words_and_without_others(open_page, release, screenshots: Path) -> None:
    page = open_page("/")
    page.locator(".face").nth(2).click()
    expect(page.locator("h1")).to_contain_text("Like ")
    liked = parse_qs(urlsplit(page.url).query)["similar"][0]
    page.locator("#text").fill("red")
    expect(page.locator("h1")).to_contain_text("red, like ")
    page.locator("#without").fill("striped")
    expect(page.locator("h1")).to_contain_text(", not striped")
    expected = release.search(
        text="red", like=liked, without="striped", weights={"text": 0.5, "like": 0.5}, k=24
    ).product_ids
    until(page, f"document.querySelector('.face').dataset.product === '{expected[0]}'")
    assert shown_ids(page) == list(expected)
    assert parse_qs(urlsplit(page.url).query)["without"] == ["striped"]
    page.screenshot(path=screenshots / "like-this-but-red.png")
    page.reload()
    expect(page.locator("h1")).to_contain_text(", not striped")
    until(page, f"document.querySelector('.face').dataset.product === '{expected[0]}'")


def test_look_alikes_are_folded_by_a_tick(open_page, release) -> None:
    page = open_page("/?q=shirt")
    expect(page.locator(".face")).to_have_count(24)
    page.locator("#spread").check()
    expected = release.search(text="shirt", k=24, spread=True)
    until(page, "[...document.querySelectorAll('.traits')].some(line => line.textContent.includes(' alike'))")
    assert shown_ids(page) == list(expected.product_ids)


def test_a_result_shows_its_score_and_leads_to_its_cluster(open_page, release) -> None:
    page = open_page("/?q=shirt")
    expect(page.locator(".face")).to_have_count(24)
    found = release.search(text="shirt", k=24)
    assert page.locator(".score").all_text_contents() == [figure(hit.score) for hit in found.hits]
    page.locator(".found a").first.click()
    expect(page.locator("#panel-name")).to_be_visible()
    assert parse_qs(urlsplit(page.url).query)["cluster"] == [str(found.hits[0].cluster)]


def test_why_a_product_is_found(open_page, release, screenshots: Path) -> None:
    page = open_page("/?q=navy+blue+shirt")
    expect(page.locator(".face")).to_have_count(24)
    page.locator(".card").first.hover()
    page.locator(".why").first.click()
    found, _ = release.explain(release.search(text="navy blue shirt", k=1).product_ids[0], text="navy blue shirt")
    expect(page.locator("#why caption").first).to_have_text("Score " + figure(found.score))
    expect(page.locator("#why")).to_contain_text("One member")
    page.screenshot(path=screenshots / "why.png")
    page.keyboard.press("Escape")
    expect(page.locator("#why")).to_be_hidden()
    expect(page.locator("h1")).to_have_text("navy blue shirt")  # Escape has closed it, and no more


def test_filters_count_what_is_left_under_the_others(open_page) -> None:
    page = open_page("/?q=shirt")
    expect(page.locator(".face")).to_have_count(24)
    before = page.locator("#category option").all_text_contents()
    page.locator(".swatch").first.click()
    until(
        page,
        "before => [...document.querySelectorAll('#category option')].some((o, i) => o.textContent !== before[i])",
        arg=before,
    )
    assert len(page.locator("#category option").all_text_contents()) == len(before)
