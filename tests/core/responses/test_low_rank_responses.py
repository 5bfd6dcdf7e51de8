"""Scores by low-rank sums against those of the exact filters, in a network wide enough."""

import pytest
import torch

from sourcetrace.core.engine.samples import sample_gradients
from sourcetrace.core.gradients.factored import FactoredGradient
from sourcetrace.core.responses import score_check
from sourcetrace.tasks import ClassificationTask
from tests.tiny import (
    LossAsMeasurement,
    assert_close,
    attribute,
    case_plan,
    gradient_source,
    wide_case,
)

STAGES = {"one stage": 48 * "a", "two stages": 24 * "ab"}


def relative_error(found: torch.Tensor, exact: torch.Tensor) -> float:
    return float((found - exact).norm() / exact.norm())


@pytest.mark.parametrize("stages", STAGES.values(), ids=STAGES)
@pytest.mark.parametrize("positions", [1, 3])
@pytest.mark.parametrize("tolerance", [0.03, 0.003])
def test_scores_are_within_the_tolerance_of_the_exact_ones(stages, positions, tolerance):
    case = wide_case(stages, positions=positions)
    found = attribute(case, segments=3, batch_size=16, tolerance=tolerance)
    exact = attribute(case, segments=3, batch_size=16, tolerance=0)
    (check,) = found.checks
    assert any(choice.terms for choice in check.choices), "nothing was shortened"
    error = relative_error(found.scores[:, :-1].sum(0), exact.scores[:, :-1].sum(0))
    assert 0 < error <= 2 * tolerance  # the run's own check sees a sample of the pairs
    assert 0 < check.error <= tolerance
    # The mean loss takes the exact way.
    assert_close(found.scores[:, -1], exact.scores[:, -1])


def test_the_reported_error_is_that_of_the_sample(monkeypatch):
    """With a sample of all pairs it is the error of all scores at the segments' last points.

    Of given labels, here, as scores are.
    """
    monkeypatch.setattr(score_check, "_QUERIES", 100)
    monkeypatch.setattr(score_check, "_EXAMPLES", 100)
    monkeypatch.setattr(score_check, "sample_gradients", lambda *of, **_: sample_gradients(*of))
    case = wide_case()
    found = attribute(case, "influence", damping=0.1, tolerance=0.02)
    exact = attribute(case, "influence", damping=0.1, tolerance=0)
    (check,) = found.checks
    error = relative_error(found.scores[:, :-1].sum(0), exact.scores[:, :-1].sum(0))
    assert check.error == pytest.approx(error, rel=1e-6)


def test_sums_that_fail_the_check_are_made_longer_until_they_pass(monkeypatch):
    monkeypatch.setattr(score_check, "_FIRST_AIM", 100.0)
    loose = attribute(wide_case(), segments=2, tolerance=0.003)
    (check,) = loose.checks
    assert check.error <= 0.003
    monkeypatch.setattr(score_check, "_ATTEMPTS", 1)
    (check,) = attribute(wide_case(), segments=2, tolerance=0.003).checks
    assert check.error == 0
    assert not any(choice.terms for choice in check.choices), "the exact filters were to be taken"


@pytest.mark.parametrize("method", ["tracin", "gradient_similarity"])
def test_constant_filters_keep_outer_products(method):
    """They need no approximation, and are exact."""
    found = attribute(wide_case(), method, segments=2)
    exact = attribute(wide_case(), method, segments=2, tolerance=0)
    assert {choice.terms for choice in found.checks[0].choices} == {1}
    assert_close(found.scores, exact.scores)


def test_a_filter_that_is_no_short_sum_is_taken_as_it_is(monkeypatch):
    monkeypatch.setattr("sourcetrace.core.responses.low_rank_propagation.most_terms", lambda _: 0)
    found = attribute(wide_case(), segments=3)
    exact = attribute(wide_case(), segments=3, tolerance=0)
    assert not any(choice.terms for choice in found.checks[0].choices)
    assert_close(found.scores, exact.scores)


def test_the_choice_is_the_cheaper_one():
    case = wide_case()
    layers = gradient_source(case, ClassificationTask()).coverage.layers
    points = [len(one.points) for one in case_plan(case, "source", segments=3).segments]
    (check,) = attribute(case, segments=3, tolerance=0.03).checks
    assert {bool(choice.terms) for choice in check.choices} == {True, False}
    for choice in check.choices:
        (layer,) = [one for one in layers if one.name == choice.layer]
        short = points[choice.segment - 1] * choice.terms * (layer.outputs + layer.inputs)
        assert choice.dense_multiplications == layer.size
        assert choice.multiplications == (short or layer.size) <= layer.size
        assert bool(choice.terms) == (choice.multiplications < choice.dense_multiplications)


@pytest.mark.parametrize(("segments", "positions"), [(3, 6), (1, 3)])
def test_what_products_would_write_out_is_written_out_once(monkeypatch, segments, positions):
    """With one segment, the outer products of four checkpoints meet each of a response's."""
    products = FactoredGradient.products
    written_out = []

    def counted(self, queries):
        if isinstance(queries, FactoredGradient):
            short = queries.terms * self.size < self.dense_size
            written_out.append((len(queries), short))
        return products(self, queries)

    monkeypatch.setattr(FactoredGradient, "products", counted)
    case = wide_case(positions=positions)
    (check,) = attribute(case, segments=segments, batch_size=16, tolerance=0.003).checks
    shortened = [one for one in check.choices if one.terms]
    assert any(one.multiplications == one.dense_multiplications for one in shortened)
    # The check's own sample is used once.
    assert [rows for rows, short in written_out if not short and rows > 4] == []


@pytest.mark.parametrize("positions", [1, 3])
@pytest.mark.parametrize("segments", [1, 2, 4])
def test_self_influence_is_that_of_each_example_as_a_query(segments, positions):
    """Low-rank sums stand for what is handed on; the shares of the last segment are exact."""
    case = wide_case(positions=positions)
    found = attribute(case, segments=segments, batch_size=16).self_influence
    queried = attribute(
        case.queried_with_training(), segments=segments, task=LossAsMeasurement(), tolerance=0
    )
    exact = torch.stack([share[:-1].diagonal() for share in queried.scores])
    assert_close(found[-1], exact[-1])
    assert relative_error(found.sum(0), exact.sum(0)) < 0.02


def test_self_influence_does_not_depend_on_the_blocks():
    case = wide_case()
    one = attribute(case, segments=3, batch_size=48).self_influence
    other = attribute(case, segments=3, batch_size=7).self_influence
    assert_close(one, other, tolerance=1e-8)


@pytest.mark.parametrize("positions", [1, 3])
@pytest.mark.parametrize("method", ["source", "gradient_similarity"])
def test_a_lower_precision_is_measured_and_used_within_the_tolerance(method, positions):
    case = wide_case(positions=positions)
    found = attribute(case, method, tolerance=0.03, precision="bfloat16")
    exact = attribute(case, method, tolerance=0)
    (check,) = found.checks
    assert check.precision == "bfloat16"
    assert 1e-4 < check.error <= 0.03
    error = relative_error(found.scores[:, :-1].sum(0), exact.scores[:, :-1].sum(0))
    assert error <= 0.06
    assert_close(found.scores[:, -1], exact.scores[:, -1])


def test_a_lower_precision_beyond_the_tolerance_is_refused_and_said():
    found = attribute(wide_case(), tolerance=1e-4, precision="bfloat16")
    plain = attribute(wide_case(), tolerance=1e-4)
    (check,) = found.checks
    assert check.precision == "float32"
    assert check.refused > 1e-4
    assert torch.equal(found.scores, plain.scores)
