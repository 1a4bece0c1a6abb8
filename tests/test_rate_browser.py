"""The page of human evaluation in a real browser: keys, a phone, light and dark, undo, two raters."""

from __future__ import annotations

import re
import sqlite3

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.browsing import needs_browser
from tests.rating_project import items, make, serving

N = 6
pytestmark = needs_browser


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    root = make(tmp_path_factory.mktemp("rating"), items(["count"] * N), size=32)
    with serving(root) as server:
        server.root = root
        yield server


def opened(browser: Browser, address: str, name: str, **options: object) -> Page:
    """The first pair of a rater who typed a name, in a window of one's own; what goes wrong in the page is an error."""
    page = browser.new_context(**options).new_page()
    page.on("pageerror", lambda error: pytest.fail(str(error)))
    page.goto(address)
    page.get_by_label("Your name").fill(name)
    page.get_by_role("button", name="Start").click()
    return ready(page, 0)


def ready(page: Page, done: int) -> Page:
    """The page once it counts so many votes and shows both pictures."""
    expect(page.locator("header span")).to_have_text(f"{done} of {N}")
    expect(page.locator(".waiting")).to_have_count(0)
    return page


def votes(server) -> list[tuple[str, str]]:
    with sqlite3.connect(server.root / "data/votes/base-vs-merged-shapes.sqlite") as file:
        return file.execute("SELECT rater, choice FROM votes WHERE undone = 0 ORDER BY id").fetchall()


def test_keys_vote_and_undo_to_the_end_and_back(browser, server):
    page = opened(browser, server.address, "keys")
    shown = [page.locator(".prompt").inner_text()]
    for done, key in enumerate(("ArrowLeft", "ArrowRight", "ArrowDown"), start=1):
        page.keyboard.press(key)
        shown.append(ready(page, done).locator(".prompt").inner_text())
    assert len(set(shown)) == 4
    page.keyboard.press("u")
    assert ready(page, 2).locator(".prompt").inner_text() == shown[2]
    for done in range(3, N):
        page.keyboard.press("ArrowLeft")
        ready(page, done)
    page.keyboard.press("Alt+ArrowLeft")  # the browser's own key
    page.keyboard.press("Control+ArrowLeft")
    page.goto(f"{server.address}/rate/keys")
    ready(page, N - 1).keyboard.press("ArrowLeft")
    expect(page.get_by_role("heading")).to_have_text("Thank you, that was all.")
    page.keyboard.press("u")
    ready(page, N - 1).keyboard.press("ArrowRight")
    expect(page.get_by_role("heading")).to_have_text("Thank you, that was all.")
    assert [choice for rater, choice in votes(server) if rater == "keys"] == [
        "left",
        "right",
        *["left"] * 3,
        "right",
    ]


def test_a_key_that_is_held_down_votes_once(browser, server):
    page = opened(browser, server.address, "held")
    for _ in range(20):
        page.keyboard.down("ArrowDown")
    ready(page, 1)
    page.reload()
    ready(page, 1)


def test_no_vote_on_pictures_that_are_not_there_yet(browser, server):
    page = opened(browser, server.address, "early")
    held = []
    page.route(re.compile(r"\.webp$"), lambda route: held.append(route))
    page.context.new_cdp_session(page).send("Network.setCacheDisabled", {"cacheDisabled": True})
    page.reload(wait_until="commit")
    expect(page.locator(".waiting")).to_have_count(1)
    page.keyboard.press("ArrowLeft")
    page.locator("#left").click(no_wait_after=True)
    expect(page.locator("header span")).to_have_text(f"0 of {N}")
    for route in held:
        route.continue_()
    page.unroute_all()
    ready(page, 0).keyboard.press("ArrowLeft")
    ready(page, 1)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_has_big_buttons_in_reach(browser, server, scheme):
    page = opened(
        browser,
        server.address,
        f"phone {scheme}",
        viewport={"width": 390, "height": 844},
        is_mobile=True,
        has_touch=True,
        color_scheme=scheme,
    )
    for id in ("left", "tie", "right"):
        box = page.locator(f"#{id}").bounding_box()
        assert box["width"] >= 100 and box["height"] >= 64 and box["y"] + box["height"] <= 844
    left, right = (page.locator(".pictures img").nth(i).bounding_box() for i in (0, 1))
    assert left["x"] + left["width"] <= right["x"] and left["y"] == right["y"] and left["width"] > 160
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert paper == {"light": "rgb(255, 255, 255)", "dark": "rgb(20, 23, 28)"}[scheme]
    page.locator("#right").tap()
    ready(page, 1).get_by_role("button", name="Undo").tap()
    ready(page, 0)


def test_a_desktop_shows_the_keys_and_needs_no_scrolling(browser, server):
    page = opened(browser, server.address, "desktop", viewport={"width": 1280, "height": 800})
    assert [page.locator(f"#{id} kbd").inner_text() for id in ("left", "tie", "right")] == ["←", "↓", "→"]
    assert page.evaluate("document.documentElement.scrollHeight") == 800


def test_two_raters_at_once_do_not_meet(browser, server):
    one, other = (opened(browser, server.address, name) for name in ("one", "other"))
    for done in range(1, 4):
        for page, key in ((one, "ArrowLeft"), (other, "ArrowRight")):
            page.keyboard.press(key)
            ready(page, done)
    found = votes(server)
    assert [choice for rater, choice in found if rater == "one"] == ["left"] * 3
    assert [choice for rater, choice in found if rater == "other"] == ["right"] * 3


def test_a_link_with_a_token_opens_the_page_and_leaves_the_address_bar(browser, tmp_path):
    root = make(tmp_path, items(["count"] * N), size=32)
    with serving(root, "--token", "--raters", "anna") as server:
        page = browser.new_page()
        assert page.goto(f"{server.address}/rate/anna").status == 403
        page.goto(server.links[0])
        assert page.url == f"{server.address}/rate/anna"
        ready(page, 0).keyboard.press("ArrowLeft")
        ready(page, 1)
        page.close()


def test_a_page_elsewhere_cannot_vote(browser, server):
    """CSRF: a form of another origin, sent by the rater's own browser."""
    victim = opened(browser, server.address, "victim")
    pair = victim.locator("input[name=pair]").get_attribute("value")
    other = victim.context.new_page()
    other.route("http://evil.example/", lambda route: route.fulfill(body="<body>", content_type="text/html"))
    other.goto("http://evil.example/")
    with other.expect_navigation() as answer:
        other.evaluate(
            """([address, pair]) => {
                document.body.innerHTML = `<form method=post action="${address}/rate/victim">
                    <input name=pair value=${pair}><input name=vote value=left></form>`;
                document.forms[0].submit();
            }""",
            [server.address, pair],
        )
    assert answer.value.status == 403
    victim.reload()
    ready(victim, 0)
