"""What the gate measures on an audit's tables."""

import math

import polars as pl
import pytest
from tests.audit.comparison.examples import first_audit
from tests.audit.gate.examples import review_list, summary

from sourcetrace.audit.gate.measured import _concentration, _measure_trust, measure_audit
from sourcetrace.errors import InputError
from sourcetrace.parameters import GateParameters


def measure(review, *, train=None, columns=(), minimum=1):
    train = review.select("example_id") if train is None else train
    return measure_audit(
        review,
        train,
        pl.DataFrame({"loss": [0.2, 0.4]}),
        pl.DataFrame({"attributed_share": [0.5, 0.75]}),
        pl.DataFrame(),
        first_audit(),
        verified=False,
        moved=0.25,
        gate=GateParameters(slice_columns=columns, group_minimum=minimum),
    )


def test_only_harm_of_a_certain_sign_counts_as_harmful():
    metrics = measure(
        review_list(
            [3.0, 2.0, 1.0, -1.0],
            stable=[True, False, True, True],
            actions=["relabel", "review", "review", "keep"],
        )
    )
    values = {name: measured.value for name, measured in metrics.items()}
    assert values["harmful_share"] == 0.5
    assert values["relabel_share"] == 0.25
    assert values["unstable_share"] == pytest.approx(1 / 3)
    assert values["attributed_share"] == 0.75
    assert values["mean_query_loss"] == pytest.approx(0.3)
    assert values["training_examples"] == 4
    assert values["curvature_moved_share"] == 0.25


def test_what_somebody_decided_to_keep_does_not_count_and_what_is_not_done_yet_does():
    metrics = measure(
        review_list(
            [3.0, 2.0, 1.0, -1.0],
            actions=["relabel", "relabel", "relabel", "keep"],
            decisions=["keep", "remove", None, "keep"],
        )
    )
    assert metrics["harmful_share"].value == metrics["relabel_share"].value == 0.5
    assert metrics["harmful_share"].detail == "without 2 examples decided to be kept"


def test_harm_that_is_no_number_is_not_taken_for_harmless():
    assert math.isnan(measure(review_list([math.nan, -1.0]))["harmful_share"].value)


def test_harm_in_one_class_is_its_share_of_harm_over_its_share_of_examples():
    # b has 1 of 4 examples and 3 of 4 units of harm; negative harm does not offset it.
    metric = measure(review_list([3.0, 1.0, -5.0, -5.0], labels=["b", "a", "a", "a"]))
    assert metric["class_concentration"].value == pytest.approx(3.0)
    assert metric["class_concentration"].detail == "label b"


def test_evenly_spread_harm_has_concentration_1():
    groups = pl.DataFrame({"group": ["a", "a", "b", "b"], "harm": [1.0] * 4})
    assert _concentration(groups, group_minimum=1) == (1.0, "a")


def test_small_groups_do_not_count_but_their_harm_does():
    groups = pl.DataFrame({"group": ["a", "a", "b"], "harm": [1.0, 1.0, 2.0]})
    assert _concentration(groups, group_minimum=2) == (pytest.approx(0.75), "a")
    assert _concentration(groups, group_minimum=3) is None


def test_without_classes_or_harm_there_is_no_concentration():
    regression = review_list([1.0, 2.0]).with_columns(
        given_label_probability=pl.lit(None, dtype=pl.Float64)
    )
    assert measure(regression)["class_concentration"].value is None
    assert measure(review_list([-1.0, 0.0]))["class_concentration"].value is None


def test_the_worst_slice_is_named_and_lists_count_in_each_of_their_values():
    review = review_list([4.0, 0.0, 0.0, 0.0])
    train = pl.DataFrame(
        {
            "example_id": ["e0", "e1", "e2", "e3"],
            "source": [1, 1, 2, 2],
            "stage": [["p", "q"], ["p"], ["p"], ["p"]],
        }
    )
    metric = measure(review, train=train, columns=("source", "stage"))["slice_concentration"]
    # Stage: q has 1 of 5 memberships and half of the harm; source 1: all harm, half the examples.
    assert metric.value == pytest.approx(2.5)
    assert metric.detail == "stage q"
    assert measure(review)["slice_concentration"].value is None
    with pytest.raises(InputError, match="'region', which the training table does not have"):
        measure(review, train=train, columns=("region",))


def test_trust_is_measured_only_on_these_very_scores():
    current = _measure_trust(summary(), current=True)
    assert {name: m.value for name, m in current.items()} == {
        "trust_verified": 1.0,
        "trust_lds": 0.5,
        "trust_lds_low": 0.4,
        "trust_lds_of_ceiling": 0.6,
    }
    other = _measure_trust(summary(), current=False)
    assert other["trust_verified"].value == 0
    assert other["trust_lds"].value is None
    assert "other scores" in other["trust_lds"].detail


def test_what_a_verification_could_not_measure_is_not_taken_for_unknown():
    empty = _measure_trust(summary(low=None), current=True)["trust_lds_low"]
    assert math.isnan(empty.value)
    assert empty.finite is None
