"""The page that compares, in a real browser: differences are marked, judgements stored, all of it by keyboard too."""

import re
from collections.abc import Callable
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from playwright.sync_api import Page, Route, expect
from pydantic import SecretStr
from sqlalchemy import Engine

from enclip.database import open_database
from enclip.judgements import Standing, judged_results, standings
from enclip.pipeline.open_release import OpenRelease
from enclip.serving.access import ApiKeys
from tests.serving.service_world import PHONE, ReleaseMaker, Service, SlowWorld, World, forget_judgements, until

pytestmark = pytest.mark.usefixtures("engine")
K = 12


@pytest.fixture
def engine(judgements_database: Engine) -> Engine:
    """The service's database, without a judgement."""
    forget_judgements(judgements_database)
    return judgements_database


@pytest.fixture(scope="module")
def world(release: OpenRelease, make_release: ReleaseMaker) -> World:
    """Champion 3, challenger 4, previous 2."""
    releases = {2: make_release(2, seed=2), 3: release, 4: make_release(4, seed=4)}
    return World(alias=3, releases=releases, other_aliases={"challenger": 4, "previous": 2})


@pytest.fixture(scope="module")
def service(world: World, start_service: Callable[..., Service]) -> Service:
    return start_service(world)


def ids_of(page: Page, side: str) -> list[str]:
    return page.eval_on_selector_all(f"#{side}-results .face", "faces => faces.map(face => face.dataset.product)")


def badges_of(page: Page, side: str) -> list[str]:
    return page.locator(f"#{side}-results .change").all_text_contents()


def test_champion_and_challenger_side_by_side_with_what_differs(open_page, world: World, screenshots: Path) -> None:
    page = open_page("/compare")
    expect(page.locator("#examples button")).to_have_count(6)
    page.locator("#text").fill("navy blue shirt")
    page.keyboard.press("Enter")
    expect(page.locator("h1")).to_have_text("navy blue shirt")
    expect(page.locator("#left-title")).to_contain_text("Release 3 · champion")
    expect(page.locator("#right-title")).to_contain_text("Release 4 · challenger")
    left = list(world.releases[3].search(text="navy blue shirt", k=K).product_ids)
    right = list(world.releases[4].search(text="navy blue shirt", k=K).product_ids)
    assert ids_of(page, "left") == left
    assert ids_of(page, "right") == right
    assert badges_of(page, "left") == ["" if found in right else "gone" for found in left]
    by_hand = []
    for place, found in enumerate(right):
        moved = left.index(found) - place if found in left else None
        by_hand.append("new" if moved is None else f"▲{moved}" if moved > 0 else f"▼{-moved}" if moved else "")
    assert badges_of(page, "right") == by_hand
    assert "new" in by_hand
    shared = len(set(left) & set(right))
    expect(page.locator("#summary")).to_contain_text(f"{shared} of {K} shared, overlap {round(100 * shared / K)}%")
    dimmed = page.locator("#left-results .card.left .face").first
    assert float(dimmed.evaluate("face => getComputedStyle(face).opacity")) < 1
    until(page, "document.querySelector('.well img').naturalWidth > 0")
    page.screenshot(path=screenshots / "compare.png")


def test_the_address_keeps_query_and_releases(open_page, world: World) -> None:
    page = open_page("/compare?q=bag")
    expect(page.locator("#left-results .card")).to_have_count(K)
    page.locator("#right").select_option("2")
    expect(page.locator("#right-title")).to_contain_text("Release 2 · previous")
    assert parse_qs(urlsplit(page.url).query) == {"q": ["bag"], "left": ["3"], "right": ["2"]}
    page.locator("#swap").click()
    expect(page.locator("#left-title")).to_contain_text("Release 2")
    again = open_page("/compare?" + urlsplit(page.url).query)
    expect(again.locator("#left-title")).to_contain_text("Release 2")
    expect(again.locator("#right-title")).to_contain_text("Release 3")
    assert again.locator("#left").input_value() == "2"
    assert ids_of(again, "left") == list(world.releases[2].search(text="bag", k=K).product_ids)
    page.go_back()
    expect(page.locator("#left-title")).to_contain_text("Release 3")
    by_alias = open_page("/compare?q=bag&left=previous&right=champion")
    expect(by_alias.locator("#left-title")).to_contain_text("Release 2")


def test_a_click_compares_what_is_like_a_product(open_page, world: World) -> None:
    page = open_page("/compare?q=bag")
    expect(page.locator("#left-results .card")).to_have_count(K)
    chosen = ids_of(page, "right")[1]
    page.locator("#right-results .face").nth(1).click()
    expect(page.locator("h1")).to_contain_text("Like ")
    expect(page.locator("#token")).to_be_visible()
    assert ids_of(page, "left") == list(world.releases[3].search(like=chosen, k=K).product_ids)
    page.locator("#token-clear").click()
    expect(page.locator("h1")).to_have_text("Two releases, one search")


def test_what_is_judged_is_stored_and_shown(open_page, engine: Engine, screenshots: Path) -> None:
    page = open_page("/compare?q=navy+blue+shirt")
    expect(page.locator("#judged")).to_have_text("Nothing has been judged yet.")
    page.locator("#by").fill("ann")
    page.get_by_role("button", name="Right better").click()
    expect(page.locator("#judged")).to_have_text("Release 4 against 3 so far: 1 better, 0 same, 0 worse.")
    expect(page.get_by_role("button", name="Right better")).to_have_attribute("aria-pressed", "true")
    page.get_by_role("button", name="Same", exact=True).click()
    expect(page.locator("#judged")).to_have_text("Release 4 against 3 so far: 0 better, 1 same, 0 worse.")
    assert standings(engine) == [Standing(release=4, against=3, wins=0, ties=1, losses=0)]
    good, bad = ids_of(page, "left")[0], ids_of(page, "right")[2]
    page.locator("#left-results .opinion [data-verdict=good]").first.click()
    page.locator("#right-results .opinion [data-verdict=bad]").nth(2).click()
    expect(page.locator("#right-results .opinion [data-verdict=bad]").nth(2)).to_have_attribute("aria-pressed", "true")
    page.screenshot(path=screenshots / "compare-judged.png")
    assert {found.product_id: found.is_good for found in judged_results(engine)} == {good: True, bad: False}
    with engine.connect() as connection:
        from sqlalchemy import text

        assert connection.execute(text('SELECT DISTINCT "by" FROM judged_results')).scalars().all() == ["ann"]
    page.reload()
    expect(page.locator("#by")).to_have_value("ann")
    expect(page.get_by_role("button", name="Same", exact=True)).to_have_attribute("aria-pressed", "true")
    expect(page.locator("#left-results [data-verdict=good]").first).to_have_attribute("aria-pressed", "true")
    page.locator("#swap").click()
    expect(page.locator("#left-title")).to_contain_text("Release 4")
    expect(page.locator("#right-results [data-verdict=good]").first).to_have_attribute("aria-pressed", "true")
    page.locator("#by").fill("bob")  # who has said nothing yet
    page.locator("#by").blur()
    expect(page.locator("#right-results [data-verdict=good]").first).to_have_attribute("aria-pressed", "false")


def test_pressed_again_it_is_taken_back(open_page, engine: Engine) -> None:
    page = open_page("/compare?q=bag")
    left = page.get_by_role("button", name="Left better")
    good = page.locator("#left-results [data-verdict=good]").first
    for button in (left, good):
        button.click()
        expect(button).to_have_attribute("aria-pressed", "true")
    page.locator("#swap").click()
    expect(page.locator("#left-title")).to_contain_text("Release 4")
    expect(page.get_by_role("button", name="Right better")).to_have_attribute("aria-pressed", "true")
    page.locator("#swap").click()
    expect(page.locator("#left-title")).to_contain_text("Release 3")
    for button in (left, good):
        expect(button).to_have_attribute("aria-pressed", "true")
        button.click()
        expect(button).to_have_attribute("aria-pressed", "false")
    expect(page.locator("#judged")).to_have_text("Nothing has been judged yet.")
    assert not standings(engine) and not judged_results(engine)


def test_what_was_said_of_one_query_is_not_shown_of_the_next(open_page, engine: Engine) -> None:
    page = open_page("/compare?q=bag")
    left, right = (page.get_by_role("button", name=f"{side} better") for side in ("Left", "Right"))
    left.click()
    expect(left).to_have_attribute("aria-pressed", "true")
    page.route(re.compile(r"/v1/judgements\?"), lambda route: None)  # what was said of the next one takes its time
    page.locator("#text").fill("red bag")
    page.keyboard.press("Enter")
    expect(page.locator("h1")).to_have_text("red bag")
    expect(left).to_have_attribute("aria-pressed", "false")
    writes: list[Route] = []
    page.route(re.compile(r"/v1/judgements$"), lambda route: writes.append(route))
    right.click()
    page.locator("#text").fill("watch")
    page.keyboard.press("Enter")
    expect(page.locator("h1")).to_have_text("watch")
    with page.expect_response("**/v1/judgements/summary"):  # which is asked for once a judgement is stored
        writes[0].continue_()
    expect(page.locator("#judged")).to_have_text("Release 4 against 3 so far: 1 better, 0 same, 1 worse.")
    expect(right).to_have_attribute("aria-pressed", "false")
    page.unroute_all()
    page.locator("#text").fill("red bag")
    page.keyboard.press("Enter")
    expect(right).to_have_attribute("aria-pressed", "true")


def test_a_database_that_does_not_answer_repeats_no_comparison(
    open_page, world: World, start_service: Callable[..., Service], tmp_path: Path
) -> None:
    database = tmp_path / "judged" / "catalog.db"
    engine = open_database(f"sqlite:///{database}")
    service = start_service(world, judgements=engine)
    engine.dispose()
    for file in database.parent.iterdir():
        file.write_bytes(b"this is no database " * 1000)
    page = open_page("/", url=service.url, expect_errors=True)
    compared: list[str] = []
    page.on("request", lambda request: compared.append(request.url) if request.url.endswith("/compare") else None)
    with page.expect_response("**/v1/judgements/summary") as answered:
        page.goto(f"{service.url}/compare?q=bag")
    assert answered.value.status == 503
    expect(page.locator("#notice-text")).to_contain_text("does not answer")
    page.wait_for_timeout(2500)  # longer than the page waits for a service that starts
    assert [url for url in compared if url.endswith("/v1/compare")] == [f"{service.url}/v1/compare"]
    expect(page.locator("#right-results .card")).to_have_count(K)


def test_everything_by_keyboard(open_page, engine: Engine) -> None:
    page = open_page("/compare")
    expect(page.locator("#choice")).to_be_visible()
    page.keyboard.press("/")
    expect(page.locator("#text")).to_be_focused()
    page.keyboard.type("bag")
    page.keyboard.press("Enter")
    expect(page.locator("#right-results .card")).to_have_count(K)
    page.keyboard.press("ArrowDown")
    expect(page.locator("#left-results .face").first).to_be_focused()
    page.keyboard.press("b")
    expect(page.locator("#left-results [data-verdict=bad]").first).to_have_attribute("aria-pressed", "true")
    for _ in range(3):
        page.keyboard.press("ArrowRight")
    expect(page.locator("#right-results .face").first).to_be_focused()
    page.keyboard.press("g")
    expect(page.locator("#right-results [data-verdict=good]").first).to_have_attribute("aria-pressed", "true")
    page.keyboard.press("1")
    expect(page.locator("#judged")).to_contain_text("Release 4 against 3 so far: 0 better, 0 same, 1 worse.")
    page.keyboard.press("ArrowUp")
    expect(page.locator("#text")).to_be_focused()
    page.keyboard.type("1")  # typed, not judged
    expect(page.locator("#text")).to_have_value("bag1")
    page.keyboard.press("Escape")
    expect(page.locator("h1")).to_have_text("Two releases, one search")
    assert standings(engine) == [Standing(release=4, against=3, wins=0, ties=0, losses=1)]
    assert len(judged_results(engine)) == 2


def test_it_fits_a_phone(open_page, screenshots: Path) -> None:
    page = open_page("/compare?q=shoes", viewport=PHONE, is_mobile=True, has_touch=True, device_scale_factor=2)
    expect(page.locator("#right-results .card")).to_have_count(K)
    assert page.evaluate("document.documentElement.scrollWidth") == PHONE["width"]
    small = page.eval_on_selector_all(
        "main button, .go, .pill, .swap, .pages a",
        "all => all.filter(e => e.offsetParent && e.getBoundingClientRect().height < 32).map(e => e.className)",
    )
    assert small == [], "every target is large enough for a finger"
    lefts, rights = (page.locator(f"#{side}-results .card").first.bounding_box() for side in ("left", "right"))
    assert lefts and rights
    assert abs(lefts["y"] - rights["y"]) < 4, "still side by side"
    until(page, "document.querySelector('.well img').naturalWidth > 0")
    page.screenshot(path=screenshots / "compare-phone.png")


def test_it_can_be_read_at_night(open_page, screenshots: Path) -> None:
    page = open_page("/compare?q=dress", color_scheme="dark")
    expect(page.locator("#right-results .card")).to_have_count(K)
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert max(int(value) for value in background[4:-1].split(",")) < 60
    page.screenshot(path=screenshots / "compare-dark.png")


def test_without_a_challenger_the_previous_one_is_compared(open_page, world: World, start_service) -> None:
    service = start_service(World(alias=3, releases=world.releases, other_aliases={"previous": 2}))
    page = open_page("/compare?q=bag", url=service.url)
    expect(page.locator("#right-title")).to_contain_text("Release 2 · previous")


def test_one_release_alone_says_so(open_page, release: OpenRelease, start_service) -> None:
    service = start_service(World(alias=3, releases={3: release}))
    page = open_page("/compare?q=bag", url=service.url)
    expect(page.locator("h1")).to_have_text("Nothing to compare yet")
    expect(page.locator("#summary")).to_have_text(
        "Release 3 is the only one. The next retraining or refreshed index makes another."
    )
    expect(page.locator("#verdict")).to_be_hidden()


def test_comparing_that_is_off_says_so(open_page, world: World, start_service, screenshots: Path) -> None:
    page = open_page("/compare", url=start_service(world, releases=None).url, expect_errors=True)
    expect(page.locator("#notice-text")).to_have_text("Comparing is turned off in this service.")
    expect(page.locator("#verdict")).to_be_hidden()
    page.screenshot(path=screenshots / "compare-off.png")


def test_a_release_that_is_being_opened_is_waited_for(open_page, world: World, start_service) -> None:
    slow = SlowWorld(alias=3, releases=world.releases, other_aliases=world.other_aliases)
    service = start_service(slow, releases=slow.comparable(wait_s=0.5))
    page = open_page("/compare?q=bag", url=service.url, expect_errors=True)
    expect(page.locator("#notice-text")).to_have_text("Release 4 is still being opened.")
    slow.let.set()
    expect(page.locator("#right-results .face")).to_have_count(K, timeout=15_000)
    expect(page.locator("#notice")).to_be_hidden()


def test_an_unknown_release_in_a_link_is_said(open_page) -> None:
    page = open_page("/compare?q=bag&right=77", expect_errors=True)
    expect(page.locator("#notice-text")).to_contain_text("No release is called '77': the newest is 4")
    page.locator("#right").select_option("2")
    expect(page.locator("#right-title")).to_contain_text("Release 2")
    expect(page.locator("#notice")).to_be_hidden()


def test_a_judgement_that_is_not_stored_is_not_shown_as_such(open_page, world: World) -> None:
    page = open_page("/compare?q=bag", expect_errors=True)
    expect(page.locator("#right-results .card")).to_have_count(K)
    page.route("**/v1/judgements", lambda route: route.abort())
    page.get_by_role("button", name="Left better").click()
    expect(page.locator("#notice-text")).to_have_text("Not stored: The search service does not answer.")
    expect(page.get_by_role("button", name="Left better")).to_have_attribute("aria-pressed", "false")


def test_the_key_is_asked_for_and_taken(open_page, world: World, start_service) -> None:
    key = "correct-horse-battery"
    service = start_service(world, keys=ApiKeys.parse(SecretStr(key)))
    page = open_page("/compare?q=bag", url=service.url, expect_errors=True)
    expect(page.locator("#unlock-text")).to_have_text("The service asks for a key.")
    page.locator("#key").fill(key)
    page.keyboard.press("Enter")
    expect(page.locator("#right-results .card")).to_have_count(K)
    expect(page.locator("#unlock")).to_be_hidden()


def test_a_service_that_starts_is_waited_for(open_page, world: World, start_service) -> None:
    late = World(alias=None, releases=world.releases)
    service = start_service(late)
    page = open_page("/compare?q=bag", url=service.url, expect_errors=True)
    expect(page.locator("#notice-text")).to_contain_text("No release is promoted yet.")
    late.alias = 3
    expect(page.locator("#right-results .card")).to_have_count(K, timeout=10_000)
    expect(page.locator("#notice")).to_be_hidden()


@pytest.mark.parametrize(("path", "name"), [("/", "Search"), ("/compare", "Compare"), ("/docs", "API")])
def test_every_page_leads_to_the_others(open_page, path: str, name: str) -> None:
    page = open_page(path)
    links = page.locator("nav.pages a")
    assert links.all_text_contents() == ["Search", "Compare", "Clusters", "API"]
    expect(page.locator("nav.pages a[aria-current=page]")).to_have_text(name)
    page.get_by_role("link", name="Compare", exact=True).click()
    expect(page).to_have_url(re.compile(r"/compare(\?.*)?$"))


def test_what_is_searched_for_goes_along_to_the_other_page(open_page) -> None:
    page = open_page("/?q=red+bag")
    expect(page.locator("h1")).to_have_text("red bag")
    page.get_by_role("link", name="Compare", exact=True).click()
    expect(page.locator("h1")).to_have_text("red bag")
    expect(page.locator("#right-results .card")).to_have_count(K)
    page.locator("#text").fill("watch & strap")
    page.keyboard.press("Enter")
    expect(page.locator("h1")).to_have_text("watch & strap")
    page.get_by_role("link", name="Search", exact=True).click()
    expect(page.locator("h1")).to_have_text("watch & strap")
    expect(page.locator("#results .card")).to_have_count(24)
