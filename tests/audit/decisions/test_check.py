"""A file of decisions is taken as a whole, or refused with every fault."""

import pytest
from tests.audit.decisions.examples import decide, examples

from sourcetrace.audit.decisions.standing import standing_decisions
from sourcetrace.errors import InputError

TABLE = examples({"a": "3", "b": "3", "=c": "8"})


def test_every_fault_is_named_and_nothing_applied():
    with pytest.raises(InputError) as caught:
        decide(
            TABLE,
            ("a", "kepp", {}),
            ("nobody", "keep", {}),
            ("b", "relabel", {}),
            ("=c", "relabel", {"new_label": "11"}),
            ("a", "keep", {"content_digest": "f" * 40}),
            ("b", "keep", {"new_label": "8"}),
            ("=c", "keep", {"content_digest": ""}),
            ("=c", "relabel", {"new_label": "8"}),
        )
    message = str(caught.value)
    assert message.startswith("file.csv: 8 faults, so nothing was applied.")
    for fault in (
        "line 2 (a): 'kepp' is no decision; expected relabel, remove, keep, unsure",
        "line 3 (nobody): the audit has no example of this id or content",
        "line 4 (b): relabel needs a label in the column new_label",
        "line 5 (=c): there is no label '11'; the labels are 3, 8, 9",
        "line 6 (a): its content has changed since this was decided",
        "line 7 (b): new_label is '8', but the decision is keep",
        "line 8 (=c): content_digest is empty",
        "line 9 (=c): it has the label '8' already",
    ):
        assert fault in message


def test_a_file_that_contradicts_itself_is_refused():
    with pytest.raises(InputError, match=r"line 3 \(a\): an earlier line .* \(relabel 8\)"):
        decide(TABLE, ("a", "relabel", {"new_label": "8"}), ("a", "remove", {}))


def test_a_label_that_has_changed_since_is_said_so():
    log = decide(TABLE, ("a", "keep", {}))
    old = {"content_digest": TABLE["content_digest"][0]}
    relabelled = examples({"a": "9", "b": "3", "=c": "8"})
    with pytest.raises(InputError, match="its label has changed since this was decided, to '9'"):
        decide(relabelled, ("a", "unsure", old), log=log)


def test_many_faults_are_counted():
    with pytest.raises(InputError, match=r"25 faults.*and 5 further faults"):
        decide(TABLE, *[(f"nobody-{i}", "keep", {}) for i in range(25)])


@pytest.mark.parametrize("ending", ["\n", "\r\n"])
@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_what_spreadsheets_do_to_a_file_is_harmless(ending, separator):
    columns = ("rank", "decision", "example_id", "content_digest", "new_label", "note")
    log = decide(
        TABLE,
        ("'=c", "Relabel ", {"new_label": "3", "content_digest": TABLE["content_digest"][2]}),
        ("a", "", {}),
        ("b", "KEEP", {"note": "'-- fine"}),
        columns=columns,
        ending=ending,
        separator=separator,
    )
    assert log.select("example_id", "decision", "new_label", "note").rows() == [
        ("=c", "relabel", "3", None),
        ("b", "keep", None, "-- fine"),
    ]
    assert log["given_label"].to_list() == ["8", "3"]


def test_the_same_file_twice_adds_nothing_whatever_became_of_the_examples():
    rows = (("a", "relabel", {"new_label": "8"}), ("b", "remove", {}), ("=c", "keep", {}))
    log = decide(TABLE, *rows)
    assert decide(TABLE, *rows, log=log).equals(log)
    digests = dict(TABLE.select("example_id", "content_digest").iter_rows())
    old = [(name, what, {**more, "content_digest": digests[name]}) for name, what, more in rows]
    carried_out = examples({"a": "8", "=c": "8"})
    assert decide(carried_out, *old, log=log).equals(log)


def test_a_list_that_shows_earlier_decisions_repeats_them():
    log = decide(TABLE, ("a", "relabel", {"new_label": "8"}), ("b", "keep", {}))
    again = decide(TABLE, ("a", "relabel", {}), ("b", "keep", {}), ("=c", "keep", {}), log=log)
    assert again.height == 3


def test_what_an_older_list_shows_can_be_decided_again():
    log = decide(TABLE, ("a", "keep", {}))
    listed = TABLE.with_columns(standing_decisions(TABLE, log)["decision"])
    log = decide(listed, ("a", "relabel", {"new_label": "8"}), log=log)
    log = decide(listed, ("a", "keep", {}), log=log)
    assert log["decision"].to_list() == ["keep", "relabel", "keep"]


def test_a_renamed_example_is_known_by_its_content():
    renamed = examples({"new": "3"}, contents={"new": "a"})
    log = decide(renamed, ("a", "keep", {"content_digest": TABLE["content_digest"][0]}))
    assert log["example_id"].to_list() == ["new"]


def test_one_of_two_copies_may_go_but_a_label_is_right_or_wrong_of_both():
    copies = examples({"a": "3", "b": "3"}, contents={"b": "a"})
    assert decide(copies, ("a", "remove", {}), ("b", "keep", {})).height == 2
    with pytest.raises(InputError, match=r"line 3 \(b\): an earlier line decides otherwise"):
        decide(copies, ("a", "relabel", {"new_label": "8"}), ("b", "keep", {}))


def test_a_change_of_mind_about_another_copy_can_be_taken_back():
    copies = examples({"a": "3", "b": "3"}, contents={"b": "a"})
    log = decide(copies, ("a", "keep", {"note": "a 3"}), ("b", "keep", {"note": "too"}))
    assert decide(copies, ("a", "keep", {"note": "a 3"}), log=log).equals(log)
    log = decide(copies, ("b", "relabel", {"new_label": "8"}), log=log)
    log = decide(copies, ("a", "keep", {"note": "a 3"}), log=log)
    assert standing_decisions(copies, log)["decision"].to_list() == ["keep", "keep"]


def test_numbers_are_labels_of_a_regression():
    table = examples({f"{i}": f"{i}.5" for i in range(20)})
    table = table.with_columns(given_label_probability=None)
    assert decide(table, ("1", "relabel", {"new_label": "-7.25"}), labels=()).height == 1
    with pytest.raises(InputError, match="there is no label 'nan'"):
        decide(table, ("1", "relabel", {"new_label": "nan"}), labels=())
