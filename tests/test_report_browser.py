"""The report in a real browser: the search over all prompts, on a phone and on a desk, light and dark."""

from __future__ import annotations

import pytest
from playwright.sync_api import Page, expect

from tests.browsing import needs_browser
from tests.test_report import page, run  # noqa: F401 - a fixture
from tests.test_report_detail import GIVEN, HOSTILE, data, read  # noqa: F401 - a fixture

pytestmark = needs_browser


@pytest.fixture
def opened(browser, run, data, tmp_path):  # noqa: F811
    """Opens the page of a small run in a window of its own; whatever goes wrong in its script is an error."""
    file = tmp_path / "report.html"
    file.write_text(page(run, detail=read(data), profile="shapes"))

    def open_page(**options: object) -> Page:
        window = browser.new_context(**options).new_page()
        window.on("pageerror", lambda error: pytest.fail(str(error)))
        window.on("dialog", lambda dialog: pytest.fail(f"a text ran as a script: {dialog.message}"))
        window.goto(file.as_uri())
        return window

    return open_page


def found(window: Page) -> list[str]:
    """The ids of the prompts that are shown."""
    texts = window.locator("#found article p").all_inner_texts()
    return [text.split("\n")[1].split(" ")[0] for text in texts]


def test_every_filter_narrows_what_is_shown_and_clear_widens_it(opened):
    window = opened()
    assert found(window) == list(GIVEN)
    expect(window.locator("#count")).to_have_text("5 of 5 prompts")
    window.locator("#filters").get_by_label("skill").select_option("objects")
    assert found(window) == ["o0", "o1"]
    window.locator("#filters").get_by_label("model").select_option("base")
    window.locator("#filters").get_by_label("answers").select_option("wrong")
    assert found(window) == ["o1"]
    window.get_by_role("button", name="clear").click()
    expect(window.locator("#count")).to_have_text("5 of 5 prompts")
    window.locator("#filters").get_by_label("model").select_option("merged")
    window.locator("#filters").get_by_label("better than").select_option("base")
    assert found(window) == ["c0", "c2"]
    window.locator("#filters").get_by_label("kind of question").select_option("object")
    assert found(window) == ["c0"]
    window.get_by_role("button", name="clear").click()
    window.locator("#filters").get_by_label("words").fill("C1 &")
    assert found(window) == ["c1"]
    window.locator("#filters").get_by_label("words").fill("nothing like it")
    expect(window.locator("#count")).to_have_text("0 of 5 prompts")
    assert found(window) == []


def test_a_prompts_questions_unfold_with_every_models_answers(opened):
    window = opened()
    card = window.locator("#found article").first
    card.get_by_text("2 questions").click()
    rows = card.locator("tr").all_inner_texts()
    assert rows[0].split() == ["question", "expected", "base", "merged"]
    assert HOSTILE in rows[1] and rows[1].split()[-4:] == ["\u2717", "no", "\u2713", "yes"]
    assert rows[2].split()[-4:] == ["\u2205", "yes", "\u2713", "yes"]
    assert card.locator("figcaption").all_inner_texts() == ["base 0%", "merged 100%"]
    assert card.get_by_role("img", name="merged: c0").is_visible()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_shows_the_differences_without_scrolling_sideways(opened, scheme):
    window = opened(viewport={"width": 390, "height": 844}, color_scheme=scheme)
    assert window.evaluate("document.documentElement.scrollWidth") == 390
    for heading in ("difference", "95% interval"):
        box = window.locator("table.parts").first.get_by_role("columnheader", name=heading).bounding_box()
        assert box["x"] >= 0 and box["x"] + box["width"] <= 390
    expect(window.locator("table.parts").first.get_by_role("columnheader", name="merged")).to_be_hidden()
    paper, ink = (
        window.evaluate(f"getComputedStyle(document.body).{what}") for what in ("backgroundColor", "color")
    )
    light = sum(map(int, paper.removeprefix("rgb(").rstrip(")").split(","))) > 380
    assert light == (scheme == "light") and paper != ink


def test_the_contents_list_leads_to_every_part(opened):
    window = opened()
    for link in window.locator("nav a").all():
        target = link.get_attribute("href")
        link.click()
        assert window.locator(target).count() == 1 and window.url.endswith(target)
