"""The whole page in Chromium: silent, offline, fit for a phone, accessible, and safe to open."""

import re

import pytest

from tests.reporting.test_table_in_browser import AWKWARD, table
from tests.reporting.whole_page import GROUPED, SUSPECTS, whole_page

pytestmark = pytest.mark.browser

SECTIONS = (
    *("groups", "suspects", "issues", "ground-truth", "changes", "verification", "cleaning"),
    *("queries", "charts", "training", "reading"),
)


def open_all(page):
    """Open what is closed, as one does who reads everything."""
    page.evaluate("for (const one of document.querySelectorAll('details')) one.open = true")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_axe_finds_nothing_in_any_section(opened, width, scheme):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="no axe-core")
    # Its own script is none of the page's.
    page = opened(
        whole_page(), color_scheme=scheme, viewport={"width": width, "height": 800}, bypass_csp=True
    )
    assert [page.locator(f"section#{name}").count() for name in SECTIONS] == [1] * len(SECTIONS)
    open_all(page)
    table(page).nth(0).get_by_label("Decision for").select_option("relabel")
    assert axe.Axe().run(page).response["violations"] == []


@pytest.mark.parametrize("width", [390, 1280])
def test_what_a_user_named_is_text_in_every_section(opened, width):
    page = opened(whole_page(AWKWARD), viewport={"width": width, "height": 800})
    open_all(page)
    assert page.locator("html").evaluate("one => one.scrollWidth") <= width
    assert page.locator("script:not([type])").count() == 2
    for name in SECTIONS:
        said = page.locator(f"section#{name}").text_content()
        assert not re.search("[\u202a-\u202e\u2066-\u2069]", said)
        # A chart's own words, and the last section's, are not the user's.
        assert ("alert(1)" in said) == (
            name not in {"cleaning", "verification", "charts", "reading"}
        )


def test_a_request_would_have_been_noticed(visit, tmp_path):
    page = whole_page().render()
    spoiled = tmp_path / "spoiled.html"
    spoiled.write_text(page.replace("</body>", '<img src="http://localhost/a.png" alt=""></body>'))
    visit(spoiled)
    # The page's own policy stops it, and the console tells.
    assert "Content Security Policy" in visit.said.pop()
    assert visit.asked.pop() == "http://localhost/a.png"


def test_a_group_shows_its_suspects_and_the_list_comes_back(opened):
    page = opened(whole_page())
    page.locator("[data-group='1']").click()
    assert table(page).locator("code").all_inner_texts() == [f"scan-#{i}" for i in range(GROUPED)]
    assert f"{GROUPED} of {SUSPECTS} rows shown" in page.locator("#suspects .status").inner_text()
    page.get_by_label("Search").fill("scan-#3")
    assert table(page).count() == 1
    page.get_by_role("button", name="Clear").click()
    table(page).nth(SUSPECTS - 1).wait_for()


def test_a_query_is_found_by_its_words_and_says_who_helped(opened):
    page = opened(whole_page())
    shown = page.locator("details.query:visible")
    assert shown.count() == 10
    find = page.get_by_label("Find a query")
    find.fill("SCAN-#12 label")
    assert page.locator("#queries output").inner_text() == "1 of 14"
    assert shown.count() == 1
    assert "scan-#2 label scan-#2: without it −0.25" in shown.inner_text()
    find.fill("scan says")
    assert shown.count() == 14
    find.fill("nothing")
    assert shown.count() == 0
    find.fill("")
    assert shown.count() == 10


def test_print_has_every_suspect_and_lets_nothing_overlap(opened):
    page = opened(whole_page(), viewport={"width": 720, "height": 1000})
    page.emulate_media(media="print")
    scroll = page.locator(".scroll.wide")
    assert scroll.evaluate("one => one.scrollHeight - one.clientHeight") <= 0
    assert page.locator("details.query:visible").count() == 1
    assert page.locator("details.query:visible > summary").is_visible()
