"""The queries in headless Chromium: found by what their line says, silent, and fit for a phone."""

import re
from dataclasses import replace

import pytest

from tests.chromium import CHROMIUM
from tests.reporting.content import page_content
from tests.reporting.queries.test_pages import section
from tests.reporting.test_page_in_browser import PHONE, served, visit

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed"),
]

# Words are typed, one after the other; what is shown of three queries is told.
TYPED = """<!DOCTYPE html><link rel="icon" href="data:,"><body>
<iframe src="/page"></iframe>
<script>
document.querySelector("iframe").onload = function () {
  const page = this.contentDocument;
  const input = page.querySelector("#queries input");
  const seen = () => [...page.querySelectorAll("details.query")]
    .filter((one) => one.getClientRects().length).map((one) => one.open);
  const told = [page.querySelector("#queries .find").hidden];
  for (const words of ["Q1", "label 7", "none", ""]) {
    input.value = words;
    input.dispatchEvent(new Event("input"));
    told.push(words, page.querySelector("#queries output").textContent, ...seen());
  }
  document.body.dataset.told = told.join(" | ");
};
</script>"""


@pytest.fixture(scope="module")
def page():
    return replace(page_content(), queries=section(text="Unbroken" * 100)).render()


def test_a_query_is_found_by_its_words(page):
    with served({"/typed": TYPED, "/page": page}) as (address, _):
        document, console = visit(address + "/typed")
    assert console == []
    assert re.search(r'data-told="([^"]*)"', document)[1] == " | ".join(
        [
            *("false", "Q1", "1 of 3", "true"),
            *("label 7", "3 of 3", "true", "true", "false"),
            *("none", "0 of 3"),
            *("", "", "true", "true", "false"),
        ]
    )


def test_it_fits_a_phone(page):
    with served({"/phone": PHONE, "/page": page}) as (address, _):
        document, console = visit(address + "/phone")
    assert console == []
    assert int(re.search(r'data-width="(\d+)"', document)[1]) <= 390
