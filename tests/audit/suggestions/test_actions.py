"""Nothing is removed because of disagreement alone, and nothing relabelled against the queries."""

import polars as pl
import pytest

from sourcetrace.audit.suggestions.actions import suggest_actions

SUSPECT = {
    "example_id": "s",
    "given_label": "a",
    "given_label_probability": 0.4,
    "false_discovery": 0.1,
    "corrected_probability": 0.05,
    "other_label": "b",
    "harm": 2.0,
    "sign_stable": True,
    "self_influence_rank": 1,
}
OTHERS = [
    {**SUSPECT, "example_id": f"e{i}", "false_discovery": 1.0, "self_influence_rank": i + 2}
    for i in range(20)
]
NO_OTHER = {"other_label": None}


@pytest.mark.parametrize(
    ("changes", "action"),
    [
        ({}, "relabel"),
        ({"sign_stable": False, "harm": -1.0}, "relabel"),
        ({"harm": -2.0}, "review"),
        ({"corrected_probability": 0.6}, "remove"),
        (NO_OTHER, "remove"),
        ({**NO_OTHER, "sign_stable": False}, "review"),
        ({**NO_OTHER, "harm": -2.0}, "review"),
        ({**NO_OTHER, "self_influence_rank": 15}, "review"),
        ({"false_discovery": 0.3}, "keep"),
    ],
)
def test_the_action_follows_from_all_signals(changes, action):
    table = suggest_actions(
        pl.DataFrame([{**SUSPECT, **changes}, *OTHERS], infer_schema_length=None),
        false_discovery_rate=0.2,
        relabel_probability=0.5,
    )
    first = table.row(0, named=True)
    assert first["suggested_action"] == action
    assert first["suggested_label"] == ("b" if action == "relabel" else None)
    assert (table["suggested_action"].tail(20) == "keep").all()


def test_a_target_that_is_no_class_is_never_relabelled():
    values = {"given_label_probability": None, "corrected_probability": None, **NO_OTHER}
    rows = [{**one, **values} for one in (SUSPECT, {**SUSPECT, "sign_stable": False}, *OTHERS)]
    table = suggest_actions(
        pl.DataFrame(rows, schema_overrides={"given_label_probability": pl.Float64}),
        false_discovery_rate=0.2,
        relabel_probability=0.5,
    )
    assert table["suggested_action"].to_list() == ["remove", "review", *["keep"] * 20]


def test_without_labels_only_certain_harm_is_looked_at():
    unlabelled = {
        **SUSPECT,
        **NO_OTHER,
        "given_label": None,
        "given_label_probability": None,
        "corrected_probability": None,
    }
    rows = [unlabelled, {**unlabelled, "sign_stable": False}, {**unlabelled, "harm": -2.0}]
    table = suggest_actions(
        pl.DataFrame(rows, schema_overrides={"given_label": pl.String}),
        false_discovery_rate=0.2,
        relabel_probability=0.5,
    )
    assert table["suggested_action"].to_list() == ["review", "keep", "keep"]
