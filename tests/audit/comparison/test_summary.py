"""Drift of scores and spectra: nothing where nothing moved, and the size where it did."""

import math

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.audit.comparison.examples import audit

from sourcetrace.audit.comparison.changes import compare_examples
from sourcetrace.audit.comparison.summary import CurvatureDrift, ScoreDrift, _spectrum_distance

QUANTILES = st.lists(st.floats(0, 1e6), min_size=9, max_size=9).map(sorted)


def scored(harm, *, labels=None, before=None):
    count = len(harm)
    labels = labels or ["0"] * count
    rows = audit(*((f"e{i}", f"x{i}", labels[i], False) for i in range(count)))
    now = rows.with_columns(harm=pl.Series(harm, dtype=pl.Float64))
    old = rows.with_columns(harm=pl.Series(before or harm, dtype=pl.Float64))
    return compare_examples(now, old)


def spectra(*rows):
    return pl.DataFrame(
        [
            {
                "segment": segment,
                "layer": layer,
                "eigenvalues": 9,
                "trace": sum(quantiles),
                "quantiles": quantiles,
            }
            for segment, layer, quantiles in rows
        ]
    )


def test_the_same_order_correlates_wholly_and_the_reverse_not_at_all():
    assert ScoreDrift.of(scored([3.0, 2.0, 1.0]), class_minimum=3).rank_correlation == 1
    turned = scored([3.0, 2.0, 1.0], before=[1.0, 2.0, 30.0])
    assert ScoreDrift.of(turned, class_minimum=3).rank_correlation == -1


def test_labels_have_a_correlation_of_their_own_where_they_have_enough_examples():
    table = scored(
        [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0],
        before=[1.0, 2.0, 3.0, 6.0, 5.0, 4.0, 7.0],
        labels=["a", "a", "a", "b", "b", "b", "c"],
    )
    drift = ScoreDrift.of(table, class_minimum=3)
    assert [(one.label, one.examples, one.rank_correlation) for one in drift.classes] == [
        ("b", 3, -1.0),
        ("a", 3, 1.0),
    ]


def test_examples_that_were_changed_say_nothing_of_the_scores():
    rows = [(f"e{i}", f"x{i}", "0", False) for i in range(4)]
    now = audit(("e9", "x9", "1", False), *rows)
    before = audit(*rows, ("e9", "x9", "0", False))
    drift = ScoreDrift.of(compare_examples(now, before), class_minimum=3)
    assert (drift.examples, drift.rank_correlation) == (4, 1.0)


@pytest.mark.parametrize("harm", [[1.0, 2.0], [1.0, 1.0, 1.0], []])
def test_where_there_is_no_order_there_is_no_correlation(harm):
    assert ScoreDrift.of(scored(harm), class_minimum=3).rank_correlation is None


@settings(derandomize=True, deadline=None, max_examples=50)
@given(QUANTILES, QUANTILES)
def test_the_distance_of_spectra_is_symmetric_and_none_from_itself(one, other):
    assert _spectrum_distance(one, one) == 0
    assert _spectrum_distance(one, other) == _spectrum_distance(other, one) >= 0
    # No quantile counts as less than a millionth of the largest.
    assert _spectrum_distance(one, other) <= 6 + 1e-6


@settings(derandomize=True, deadline=None, max_examples=50)
@given(st.floats(1.01, 1e3))
def test_a_spectrum_times_a_factor_is_its_logarithm_away(factor):
    one = [float(i) for i in range(1, 10)]
    other = [factor * value for value in one]
    # The smallest of one is above a millionth of the largest of both.
    assert _spectrum_distance(other, one) == pytest.approx(math.log10(factor), abs=1e-5)


def test_layers_are_matched_by_name_and_segment_and_the_farthest_comes_first():
    flat = [1.0] * 9
    before = spectra((1, "a", flat), (1, "b", flat), (2, "a", flat), (1, "gone", flat))
    now = spectra((1, "a", flat), (1, "b", [4.0] * 9), (2, "a", [1.5] * 9), (1, "came", flat))
    drift = CurvatureDrift.of(now, before)
    assert [(one.segment, one.layer) for one in drift.layers] == [(1, "b"), (2, "a"), (1, "a")]
    assert drift.layers[0].trace_ratio == 4
    assert [one.is_big for one in drift.layers] == [True, False, False]


def test_other_segments_are_compared_by_their_last():
    flat = [1.0] * 9
    before = spectra((1, "a", [9.0] * 9), (2, "a", flat))
    drift = CurvatureDrift.of(spectra((1, "a", flat), (2, "a", flat), (3, "a", flat)), before)
    assert (drift.segments_before, drift.segments) == (2, 3)
    assert [(one.segment, one.distance) for one in drift.layers] == [(3, 0.0)]


def test_a_method_without_curvature_has_no_drift_of_it():
    one = spectra((1, "a", [1.0] * 9))
    assert CurvatureDrift.of(one.clear(), one).layers == ()
    assert CurvatureDrift.of(one, one.clear()).layers == ()


def test_a_spectrum_of_zeros_is_no_division_by_zero():
    zero = spectra((1, "a", [0.0] * 9))
    (layer,) = CurvatureDrift.of(zero, zero).layers
    assert (layer.distance, layer.trace_ratio) == (0.0, None)
