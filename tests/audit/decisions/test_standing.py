"""A decision stands about its content: under another id, after another training."""

from itertools import permutations

import polars as pl
from tests.audit.decisions.examples import decide, examples

from sourcetrace.audit.decisions.content import content_digests
from sourcetrace.audit.decisions.standing import cleaned_data, standing_decisions
from sourcetrace.schemas import CleanedData

TABLE = examples({"a": "3", "b": "3", "c": "8"})


def standing(table, log):
    found = standing_decisions(table, log)
    assert found["example_id"].equals(table["example_id"])
    return found.select("decision", "carried_out").rows()


def test_the_latest_counts():
    log = decide(TABLE, ("a", "keep", {}))
    log = decide(TABLE, ("a", "remove", {}), log=log, by="Bob")
    assert standing(TABLE, log) == [("remove", False), (None, None), (None, None)]
    assert decide(TABLE, ("a", "keep", {}), log=log).height == 3


def test_a_decision_is_about_the_label_too():
    log = decide(TABLE, ("a", "keep", {}))
    assert standing(examples({"new": "3"}, contents={"new": "a"}), log) == [("keep", False)]
    assert standing(examples({"a": "9"}), log) == [(None, None)]


def test_what_was_relabelled_as_decided_is_known():
    log = decide(TABLE, ("a", "relabel", {"new_label": "8"}))
    assert standing(TABLE, log)[0] == ("relabel", False)
    done = examples({"a": "8", "c": "8"})
    assert standing(done, log) == [("relabel", True), (None, None)]
    later = decide(done, ("a", "keep", {}), log=log)
    assert standing(done, later)[0] == ("keep", False)


def test_a_removal_is_of_one_copy():
    copies = examples({"a": "3", "b": "3"}, contents={"b": "a"})
    log = decide(copies, ("a", "remove", {}))
    assert standing(copies, log) == [("remove", False), (None, None)]
    assert standing(copies, decide(copies, ("a", "keep", {}), log=log))[1] == ("keep", False)


def test_a_removal_stands_whatever_is_said_of_the_other_copy_and_when():
    copies = examples({"a": "3", "b": "3"}, contents={"b": "a"})
    for rows in permutations([("a", "remove", {}), ("b", "keep", {})]):
        assert standing(copies, decide(copies, *rows)) == [("remove", False), ("keep", False)]
    other_label = examples({"a": "3", "b": "8"}, contents={"b": "a"})
    relabel = ("a", "relabel", {"new_label": "8"})
    log = decide(other_label, ("b", "remove", {}), relabel)
    assert standing(other_label, log) == [("relabel", False), ("remove", False)]


def test_a_copy_that_has_the_new_label_anyway_was_not_relabelled():
    copies = examples({"a": "3", "b": "8"}, contents={"b": "a"})
    relabel = ("a", "relabel", {"new_label": "8"})
    assert standing(copies, decide(copies, relabel))[1] == (None, None)
    kept = decide(copies, ("b", "keep", {}), relabel)
    assert standing(copies, kept)[1] == ("keep", False)


def test_unknown_contents_are_known_by_id():
    digests = pl.DataFrame(
        {"example_id": ["a", "b"], "label": ["3", "3"]},
    ).with_columns(input_digest=pl.lit(None, pl.String), target_digest=pl.lit(None, pl.String))
    assert content_digests(digests)["content_digest"].n_unique() == 2


def test_the_manifest_has_every_example_in_its_order_and_those_removed_before():
    log = decide(TABLE, ("a", "relabel", {"new_label": "8"}), ("b", "remove", {}))
    listed = TABLE.sort("example_id", descending=True)
    table = CleanedData.validate(cleaned_data(listed, log))
    assert table.rows() == [
        ("a", 0, "8", True, "relabel"),
        ("b", 1, "3", False, "remove"),
        ("c", 2, "8", True, None),
    ]
    next_round = examples({"a": "8", "c": "8"})
    assert CleanedData.validate(cleaned_data(next_round, log)).rows() == [
        ("a", 0, "8", True, "relabel"),
        ("c", 1, "8", True, None),
        ("b", None, "3", False, "remove"),
    ]
