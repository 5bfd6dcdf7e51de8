"""What became of suspects: properties, and each way to resolve one."""

import polars as pl
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.audit.comparison.examples import audit, compared
from tests.audit.comparison.test_pairing import ROWS

from sourcetrace.audit.comparison.changes import compare_examples, count_reordered
from sourcetrace.schemas import AuditComparison


@settings(derandomize=True, deadline=None, max_examples=50)
@given(ROWS)
def test_an_audit_beside_itself_has_nothing_new_and_nothing_resolved(rows):
    table = compare_examples(audit(*rows), audit(*rows))
    assert set(table["change"]) <= {"unchanged"}
    assert set(table["status"]) <= {"persisting", "unsuspected"}
    assert count_reordered(audit(*rows), audit(*rows)) == 0


@settings(derandomize=True, deadline=None, max_examples=50)
@given(ROWS, st.randoms(use_true_random=False))
def test_another_order_of_the_examples_changes_nothing_but_their_places(rows, random):
    before = audit(*rows)
    now = before.sample(fraction=1.0, shuffle=True, seed=random.randrange(2**31))
    table = compare_examples(now, before)
    assert table.equals(compare_examples(before, before))
    assert count_reordered(now, before) == sum(
        one != other for one, other in zip(now["example_id"], before["example_id"], strict=True)
    )


@settings(derandomize=True, deadline=None, max_examples=50)
@given(ROWS, ROWS)
def test_every_table_keeps_its_schema_and_counts_every_suspect_once(now, before):
    table = AuditComparison.validate(compare_examples(audit(*now), audit(*before)))
    suspects = sum(row[3] for row in now)
    assert table.filter(pl.col("status").is_in(["new", "persisting"])).height == suspects
    known = table.filter(pl.col("status").is_in(["resolved", "dropped_out", "persisting"])).height
    assert known == sum(row[3] for row in before)
    assert (table["change"] == "added").sum() - (table["change"] == "removed").sum() == (
        len(now) - len(before)
    )


@settings(derandomize=True, deadline=None, max_examples=50)
@given(st.sets(st.integers(0, 9)), st.booleans())
def test_as_many_corrected_labels_are_as_many_relabelled_suspects(corrected, renamed):
    before = audit(*((f"e{i}", f"x{i}", "0", True) for i in range(10)))
    prefix = "f" if renamed else "e"
    now = audit(
        *(
            (f"{prefix}{i}", f"x{i}", "1" if i in corrected else "0", i not in corrected)
            for i in range(10)
        )
    )
    table = compare_examples(now, before)
    resolved = table.filter(status="resolved")
    assert set(resolved["example_id"]) == {f"{prefix}{i}" for i in corrected}
    assert set(resolved["change"]) <= {"relabelled"}
    assert table.filter(status="persisting").height == 10 - len(corrected)


def test_each_thing_that_can_be_done_to_an_example_has_its_name():
    before = audit(
        ("gone", "1", "0", True),
        ("fixed", "2", "0", True),
        ("edited", "3", "0", True),
        ("left", "4", "0", True),
        ("moved", "5", "0", False),
        ("calm", "6", "0", True),
    )
    now = audit(
        ("left", "4", "0", True),
        ("fresh", "7", "0", True),
        ("moved", "5", "0", True),
        ("fixed", "2", "1", False),
        ("edited", "8", "0", False),
        ("calm", "6", "0", False),
    )
    assert compared(now, before) == {
        "gone": ("resolved", "removed"),
        "fixed": ("resolved", "relabelled"),
        "edited": ("resolved", "edited"),
        "left": ("persisting", "unchanged"),
        "fresh": ("new", "added"),
        "moved": ("new", "unchanged"),
        "calm": ("dropped_out", "unchanged"),
    }
    table = compare_examples(now, before)
    assert table["example_id"][0] == "left"
    assert table["example_id"][-1] == "gone"
    assert table.filter(example_id="fixed").select("label_before", "label").row(0) == ("0", "1")


def test_what_somebody_decided_to_keep_is_resolved():
    before = audit(("a", "1", "0", True), ("b", "2", "0", True))
    now = audit(("a", "1", "0", False), ("b", "2", "0", False), kept={"a"})
    assert compared(now, before) == {
        "a": ("resolved", "unchanged"),
        "b": ("dropped_out", "unchanged"),
    }
    # What was kept of an audit by an earlier version says nothing of decisions.
    assert compared(now, before.drop("decision")) == compared(now, before)


def test_a_target_that_changed_where_the_table_has_no_labels_is_a_new_label():
    before = audit(("a", "x", None, True)).with_columns(target_digest=pl.lit("0" * 32))
    now = before.with_columns(target_digest=pl.lit("1" * 32))
    assert compared(now, before) == {"a": ("persisting", "relabelled")}
    unknown = before.with_columns(target_digest=pl.lit(None, pl.String))
    assert compared(unknown, before) == {"a": ("persisting", "unchanged")}


def test_the_audits_in_a_row_are_counted_and_end_with_one_without_suspicion():
    history = []
    state = None
    for suspect in (True, True, False, True):
        now = audit(("a", "x", "0", suspect))
        if state is not None:
            table = compare_examples(now, state)
            now = now.with_columns(
                audits_suspected=pl.lit(int(table["audits_suspected"][0]) if suspect else 0)
            )
            history.append(table["audits_suspected"][0])
        state = now
    assert history == [2, 2, 1]


def test_an_example_removed_before_another_moves_none():
    before = audit(*((f"e{i}", f"x{i}", "0", False) for i in range(4)))
    now = audit(*((f"e{i}", f"x{i}", "0", False) for i in (1, 2, 3)))
    assert count_reordered(now, before) == 0
    assert count_reordered(now.reverse(), before) == 2
