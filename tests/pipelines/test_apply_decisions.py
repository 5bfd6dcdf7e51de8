"""What a file of decisions came to is said in full."""

from sourcetrace.audit.decisions.spreadsheet import read_decisions_file
from sourcetrace.pipelines.apply_decisions.nodes import summarise_decisions
from sourcetrace.reporting.decided import DecisionSummary
from tests.audit.decisions.examples import decide, examples, written

ROWS = (("a", "keep", {}), ("b", "remove", {}))


def sentences(table, log, content):
    """Return what is said of a file that adds nothing."""
    found = summarise_decisions(
        table,
        log,
        log.clear(),
        read_decisions_file(content, called="file.csv"),
        read_decisions_file(written(table), called="sample.csv"),
        {"scores_digest": "aa"},
    )
    return list(DecisionSummary.from_json(found).sentences())


def test_decisions_of_another_audit_that_the_log_knows_are_said_to_be_of_no_example_here():
    table = examples({"a": "3", "b": "3"})
    log, content = decide(table, *ROWS), written(table, *ROWS)
    first, *_ = said = sentences(table, log, content)
    assert first == "0 decisions added; 2 rows said nothing new."
    assert not any("does not have" in one for one in said)
    without = "that this audit does not have, decided so before."
    assert f"1 row is of an example {without}" in sentences(table.head(1), log, content)
    relabelled = examples({"a": "8", "b": "8"})
    assert not any("does not have" in one for one in sentences(relabelled, log, content))
    other = examples({"a": "3"}, contents={"a": "of another environment"})
    assert f"2 rows are of examples {without}" in sentences(other, log, content)
