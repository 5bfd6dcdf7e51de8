"""How far gradients drift between checkpoints, and where segments end by it."""

import pytest
import torch

from sourcetrace.core.engine.drift import gradient_drift, measure_drifts, segment_ends
from sourcetrace.core.gradients.factored import FactoredGradient
from sourcetrace.core.gradients.per_example import DenseGradient
from sourcetrace.tasks import ClassificationTask
from tests.tiny import gradient_source, seeded, tiny_case


def gradients(seed: int) -> dict[str, FactoredGradient | DenseGradient]:
    with seeded(seed):
        return {
            "narrow": FactoredGradient(
                torch.randn(6, 1, 1, 4, dtype=torch.float64),
                torch.randn(6, 1, 1, 3, dtype=torch.float64),
            ),
            "wide": DenseGradient(torch.randn(6, 2, 3, 2, dtype=torch.float64)),
        }


def test_equals_its_definition():
    before, after = gradients(1), gradients(2)
    flat = [
        torch.cat([one[name].dense().flatten(1) for name in one], dim=1) for one in (before, after)
    ]
    expected = (flat[0] - flat[1]).square().sum() / sum(one.square().sum() for one in flat)
    assert gradient_drift(before, after) == pytest.approx(float(expected), rel=1e-12)


def test_equal_gradients_do_not_drift_and_opposite_ones_drift_most():
    one = {"layer": DenseGradient(gradients(3)["wide"].dense())}
    opposite = {"layer": DenseGradient(-one["layer"].values)}
    vanished = {"layer": DenseGradient(torch.zeros_like(one["layer"].values))}
    assert gradient_drift(one, one) == pytest.approx(0.0, abs=1e-12)
    assert gradient_drift(one, opposite) == pytest.approx(2.0)
    assert gradient_drift(one, vanished) == pytest.approx(1.0)
    assert gradient_drift(vanished, vanished) == 0


def test_is_measured_between_consecutive_checkpoints_of_a_stage():
    case = tiny_case()
    engine = gradient_source(case, ClassificationTask())
    drifts = list(measure_drifts(engine, case.records, case.stage_examples()))
    assert len(drifts) == len(case.records) - 1
    for before, after, drift in zip(case.records, case.records[1:], drifts, strict=False):
        if before.stage != after.stage:
            assert drift == 2
        else:
            assert 0 < drift < 2
    twice = [case.records[0], case.records[0]]
    assert list(measure_drifts(engine, twice, case.stage_examples())) == [
        pytest.approx(0.0, abs=1e-9)
    ]


def test_a_segment_ends_where_the_drift_is_large():
    records = tiny_case().records
    drifts = [0.9 if index == 1 else 0.3 for index in range(len(records) - 1)]
    assert segment_ends(records, drifts) == [records[1].step]
