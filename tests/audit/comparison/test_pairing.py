"""Who is who: every example once, by content first, whatever the order of rows."""

import polars as pl
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.audit.comparison.examples import audit

from sourcetrace.audit.comparison.pairing import pair_examples

ROWS = st.lists(
    st.tuples(
        st.text("abcdef", min_size=1, max_size=2),
        st.none() | st.sampled_from("xyz"),
        st.none() | st.sampled_from("01"),
        st.booleans(),
    ),
    max_size=12,
    unique_by=lambda row: row[0],
)


def named_pairs(now, before):
    """Return the pairs as ids, None where there is no partner."""
    left, right = now["example_id"], before["example_id"]
    return {
        (
            None if place is None else left[place],
            None if place_before is None else right[place_before],
            same,
        )
        for place, place_before, same in pair_examples(now, before).iter_rows()
    }


@settings(derandomize=True, deadline=None, max_examples=50)
@given(ROWS, ROWS)
def test_every_example_of_either_audit_is_in_one_row(now, before):
    pairs = pair_examples(audit(*now), audit(*before))
    for column, rows in (("place", now), ("place_before", before)):
        assert sorted(pairs[column].drop_nulls()) == list(range(len(rows)))
    assert pairs.filter(pl.col("place").is_null() & pl.col("place_before").is_null()).is_empty()


@settings(derandomize=True, deadline=None, max_examples=50)
@given(ROWS, ROWS, st.randoms(use_true_random=False))
def test_the_order_of_rows_does_not_count(now, before, random):
    expected = named_pairs(audit(*now), audit(*before))
    random.shuffle(now)
    random.shuffle(before)
    assert named_pairs(audit(*now), audit(*before)) == expected


@settings(derandomize=True, deadline=None, max_examples=50)
@given(ROWS, ROWS)
def test_as_many_of_a_content_are_paired_as_both_audits_have(now, before):
    pairs = named_pairs(audit(*now), audit(*before))
    contents, contents_before = ({row[0]: row[1] for row in side} for side in (now, before))
    for content in "xyz":
        paired = sum(
            one is not None and same and contents[one] == content for one, _, same in pairs
        )
        ours, theirs = ([row[1] for row in side].count(content) for side in (now, before))
        by_unknown = sum(
            one is not None
            and other is not None
            and contents[one] == content
            and contents_before[other] is None
            for one, other, _ in pairs
        )
        assert paired - by_unknown == min(ours, theirs)


@settings(derandomize=True, deadline=None, max_examples=50)
@given(ROWS)
def test_an_audit_beside_itself_is_paired_id_by_id(rows):
    one = audit(*rows)
    assert named_pairs(one, one) == {(row[0], row[0], True) for row in rows}


def test_of_equal_contents_the_same_id_comes_first_then_the_same_label():
    before = audit(("a", "x", "0", False), ("b", "x", "1", False), ("c", "x", "0", False))
    now = audit(("d", "x", "1", False), ("a", "x", "1", False), ("e", "x", "0", False))
    assert named_pairs(now, before) == {("a", "a", True), ("d", "b", True), ("e", "c", True)}


def test_contents_that_differ_are_paired_by_id_and_called_different():
    now, before = audit(("a", "x", "0", False)), audit(("a", "y", "0", False))
    assert named_pairs(now, before) == {("a", "a", False)}


def test_an_unknown_content_is_known_again_by_id_alone():
    before = audit(("a", "x", "0", False), ("b", None, "0", False))
    now = audit(("a", None, "0", False), ("c", None, "0", False))
    assert named_pairs(now, before) == {("a", "a", True), ("c", None, False), (None, "b", False)}
