"""What changed since the audit before: the sentence, the section, the terminal."""

import io
import re
from dataclasses import replace

import pytest
from rich.console import Console

from sourcetrace.audit.comparison.changes import compare_examples
from sourcetrace.audit.comparison.summary import (
    CurvatureDrift,
    DataDrift,
    LayerDrift,
    ScoreDrift,
    SuspectDrift,
)
from sourcetrace.hooks.terminal import Terminal
from sourcetrace.reporting.changes import ComparedAudit
from sourcetrace.reporting.templating import plain_words
from sourcetrace.reporting.trend_charts import trend_figures
from tests.audit.comparison.examples import audit, first_audit, point, second_audit
from tests.reporting.content import compared_audit, page_content

SAME = DataDrift(training_same=True, queries_same=True)


def remarks(**changes):
    said = re.sub("</?li>", " ", plain_words("remarks", second_audit(**changes)))
    return " ".join(said.split())


def compared(count=30, *, label="0"):
    """Return a comparison: the first third is new, the second persists, the last is kept."""
    names = [f"scan-{i:05d}" for i in range(count)]
    third = count // 3
    before = audit(*((n, n, label, i >= third) for i, n in enumerate(names)))
    rows = ((n, n, label, i < 2 * third) for i, n in enumerate(names))
    now = audit(*rows, kept=names[2 * third :])
    return compare_examples(now, before)


def page_of(content, found=None, table=None):
    table = compared() if table is None else table
    return replace(content, comparison=compared_audit(found or second_audit(), table)).render()


def test_the_sentence_says_when_how_many_and_why():
    assert plain_words("changes", second_audit()) == (
        "Since the audit of 2026-11-25 02:00 UTC: 12 new suspects (2 just added), 30 resolved "
        "(25 relabelled, 5 removed), 61 persisting; the scores’ rank correlation is 0.93."
    )
    assert plain_words("changes", first_audit()).startswith("No earlier audit")


def test_nothing_is_said_to_have_a_cause_where_nothing_happened():
    quiet = second_audit(suspects=SuspectDrift(), scores=ScoreDrift(2))
    assert plain_words("changes", quiet).endswith(
        "0 new suspects, 0 resolved, 0 persisting; 2 unchanged examples are too few or too alike "
        "to compare the scores’ order."
    )


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {},
            "Training data: 2 added, 5 removed, 25 relabelled, 1 edited under the same id, "
            "3 under another id, 4 at another place.",
        ),
        ({"data": SAME}, "The training data is the same. The queries are the same."),
        (
            {"data": DataDrift(training_same=False, queries_same=False)},
            "something else in them changed (the digest differs). The queries changed",
        ),
        ({"data": DataDrift(matched_by="id")}, "known again by their id alone"),
        ({"previous_method": "influence"}, "The method was influence and is source now"),
        (
            {},
            "1 of 2 matrices changed by a factor of two or more; layer head in segment 2 changed "
            "most, by a factor of 3.16 on average.",
        ),
        (
            {"curvature": CurvatureDrift((LayerDrift(3, "a", 1.0, 0.0),), 2, 3)},
            "cut into 2 segments before and 3 now; the last ones are compared. Curvature: none of "
            "1 matrix changed by a factor of two or more.",
        ),
        ({"curvature": CurvatureDrift()}, "no layer’s curvature in common"),
    ],
)
def test_what_else_changed_is_said(changes, said):
    assert said in remarks(**changes)


def test_the_tables_have_the_first_of_each_kind_and_say_where_the_rest_is():
    review = page_content().review_list
    tables = compared_audit(second_audit(), compared(60)).suspect_tables(review)
    new, persisting, resolved = tables
    assert [len(table.rows) for table in (new, persisting, resolved)] == [12] * 3
    assert new.rows[0][0] == "scan-00000"
    assert persisting.rows[0][-1] == "2"
    assert f"The first {12} of 20 rows" in resolved.note
    assert {row[1] for row in resolved.rows} == {"keep"}
    alone = compared_audit(second_audit(), compared(60).filter(status="new"))
    assert [table.label for table in alone.suspect_tables(review)] == [new.label]


def test_a_removed_example_has_no_rank_and_no_label_now():
    table = compare_examples(audit(), audit(("gone", "x", "3", True)))
    (resolved,) = compared_audit(second_audit(), table).suspect_tables(page_content().review_list)
    assert resolved.rows == [["gone", "removed", "3 → —", "1 → —", "+1 → —", "1"]]


def test_the_page_says_so_at_its_top_and_in_a_section_and_changes_nothing_else():
    content = page_content()
    plain = content.render()
    page = page_of(content)
    assert "Not compared with an earlier audit" in plain
    assert page.count("Since the audit of 2026-11-25 02:00 UTC") == 2
    assert page.index("Since the audit of") < page.index('class="identity"')
    parts = re.compile('<p class="changes">.*?</p>\n|<section id="changes".*?</section>', re.DOTALL)
    assert parts.sub("", page) == parts.sub("", plain)
    for name in ("trend-shares", "trend-query-loss", "trend-trust"):
        assert f'id="{name}"' in page


def test_a_comparison_of_other_scores_is_not_shown():
    content = page_content()
    other = compared_audit(second_audit(), compared(), digest="1" * 64)
    assert replace(content, comparison=other).render() == content.render()


def test_what_comes_from_data_is_escaped():
    label = "<script>alert(1)</script>"
    found = second_audit(
        previous_method=label,
        curvature=CurvatureDrift((LayerDrift(1, label, 1.0, 0.1),), 1, 1),
        earlier=(point(outcome="pass"),),
    )
    page = page_of(page_content(), found, compared(label=label))
    assert label not in page
    assert "&lt;script&gt;" in page


def test_a_first_audit_has_no_line_at_the_top():
    page = page_of(page_content(), first_audit(), compared().clear())
    assert page.count("No earlier audit of this task") == 1
    assert 'class="changes"' not in page


def test_trends_take_two_measurements():
    audits = [point(trust_lds=0.5), point(at="", harmful_share=None)]
    names = [figure.name for figure in trend_figures(audits)]
    assert names == ["trend-shares", "trend-query-loss"]
    assert trend_figures(audits[:1]) == []
    # Thirty audits, with gaps, and of every outcome.
    outcomes = ("pass", "warn", "inconclusive", "fail")
    many = [point(outcome=outcomes[i % 4], trust_lds=i / 30 if i % 3 else None) for i in range(30)]
    shares, _, trust = trend_figures(many)
    assert "30 audits since 2026-11-24 02:00 UTC" in shares.description
    assert "trust from 0.0333 to 0.967" in trust.description


def test_the_history_begins_with_this_audit():
    found = second_audit(earlier=(point(),))
    now = point(at="", outcome="fail", new=3)
    table = ComparedAudit(found, compared(), now).history_table()
    assert [row[0] for row in table.rows] == ["this audit", "2026-11-24 02:00 UTC"]
    assert table.rows[0][7] == "3"


def test_the_terminal_says_the_sentence():
    output = io.StringIO()
    Terminal(Console(file=output, width=300)).print_changes(second_audit())
    assert output.getvalue() == f"Compared: {plain_words('changes', second_audit())}\n"
