"""The section of kinds of problems: what is flagged, counted, with the first of each."""

from sourcetrace.schemas import ExampleIssues
from sourcetrace.schemas.issues import ISSUES
from tests.reporting.content import page_content


def section(rows):
    page = page_content(example_issues=ExampleIssues.frame(rows)).render()
    return page.split('<section id="issues"')[1].split("</section>")[0].replace("\u00a0", " ")


def test_every_kind_is_counted_with_three_examples():
    text = section(
        (f"e<{place}>", issue, 1 - place / 10, place < 4, "q<1>" if issue == "leakage" else None)
        for issue in ISSUES
        for place in range(5)
    )
    assert text.count("4 examples.") == len(ISSUES) - 1
    assert text.count("4 queries.") == 1
    assert text.count("<code>e&lt;2&gt;</code>") == len(ISSUES)
    assert "e&lt;3&gt;" not in text
    assert "<code>e&lt;0&gt;</code> (q&lt;1&gt;)" in text


def test_without_a_flag_it_says_so():
    assert "No example’s score" in section([("e", "label", 0.1, False, None)])
