"""What the page says of decisions about audits before."""

import polars as pl

from sourcetrace.reporting.decided import DecisionSummary
from sourcetrace.schemas import DecisionLog
from tests.reporting.content import page_content

LOG = DecisionLog.frame(
    {"example_id": name, "content_digest": "0" * 40, "decision": decision}
    for name, decision in [
        ("gone", "remove"),
        ("scan-00000", "relabel"),
        ("kept after all", "remove"),
        ("kept after all", "keep"),
    ]
)


def test_the_next_audits_page_says_which_decisions_stand():
    content = page_content()
    assert 'id="cleaning"' not in content.render()
    decided = pl.when(pl.col("rank") <= 2).then(pl.lit("relabel")).alias("decision")  # copies
    after = {"review_list": content.review_list.with_columns(decided), "decision_log": LOG}
    said = "3 decisions stand (2 relabelled, 1 removed); see decisions.jsonl."
    page = page_content(**after).render()
    assert said in page
    assert '<a href="#cleaning">' in page
    assert "verify_cleaning" not in page
    this = DecisionSummary("0" * 64, {}, 0, 0, {"relabel": 2}, 40, {}, sampled=False)
    page = page_content(**after, decided=this).render()
    assert said not in page
    assert "2 of 40 examples are decided" in page
