"""What is said to be held is what is held."""

import pytest
import torch

from sourcetrace.core.methods.fit import fit_segment
from sourcetrace.core.methods.memory_needs import MemoryNeeds
from sourcetrace.tasks import ClassificationTask
from tests.tiny import case_plan, covariances_at, gradient_source, tiny_case, wide_case

TASK = ClassificationTask()


@pytest.fixture(params=[tiny_case, wide_case])
def case(request):
    return request.param(stages=48 * "a")


def needs_of(case, method="source", kept=0, free=2**40):
    engine, plan = gradient_source(case, TASK), case_plan(case, method, segments=2)
    layers = engine.coverage.layers
    return (
        engine,
        plan,
        MemoryNeeds.of(engine.model, layers, plan, method, queries=5, kept=kept, free=free),
    )


def bytes_of(*tensors):
    return sum(one.numel() * one.element_size() for one in tensors)


def test_covariances_and_curvature_take_what_is_said(case):
    engine, plan, needs = needs_of(case)
    covariances = {point.id: covariances_at(engine, point) for point in plan.points}
    sums = [one for layers in covariances.values() for one in layers.values()]
    assert needs.covariances == bytes_of(
        *(one.activation for one in sums), *(one.pseudo_gradient for one in sums)
    )
    fitted = [fit_segment(engine, planned, covariances) for planned in plan.segments]
    blocks = [block for segment in fitted for block in segment.values()]
    parameters = sum(layer.size for layer in engine.coverage.layers)
    assert needs.curvature - 8 * parameters == bytes_of(
        *(one.basis.inputs for one in blocks),
        *(one.basis.outputs for one in blocks),
        *(one.eigenvalues for one in blocks),
    )
    assert needs.responses == 2 * 6 * 8 * parameters
    assert needs.point == needs.covariances / len(plan.points)
    assert not needs.covariances_wait
    assert len(needs.fitting_groups) == len(needs.scoring_groups) == 1


def test_layers_that_do_not_fit_together_are_taken_in_groups(case):
    engine, _, whole = needs_of(case)
    name, largest = whole.largest
    # A layer alone fits: the share of the memory for layers is its size.
    needs = needs_of(case, free=int(largest / 0.39))[-1]
    for groups in (needs.fitting_groups, needs.scoring_groups):
        assert [layer for group in groups for layer in group] == list(engine.coverage.layers)
    assert len(needs.scoring_groups) > 1
    assert needs.covariances_wait == (needs.covariances > 0.4 * largest / 0.39)
    assert needs.least == whole.least == needs.weights + max(needs.point, largest)
    assert name in {layer.name for layer in engine.coverage.layers}
    alone = needs_of(case, free=1)[-1]
    assert all(len(group) == 1 for group in alone.fitting_groups + alone.scoring_groups)
    assert len(needs_of(case, "scaled_source", free=1)[-1].fitting_groups) > 1
    for method in ("retrac", "trak"):
        joint = needs_of(case, method, free=1)[-1]
        assert joint.least == joint.weights + max(joint.point, joint.curvature, joint.responses)
        assert len(joint.scoring_groups) == 1


def test_weights_count_once_for_the_model_and_for_every_checkpoint_that_is_kept():
    case = tiny_case()
    own = bytes_of(*case.model.state_dict().values())
    assert needs_of(case)[-1].weights == own
    assert needs_of(case, kept=2 * own + 1)[-1].weights == 3 * own
    points = len({name for point in needs_of(case)[1].points for name in point.checkpoints})
    assert needs_of(case, kept=100 * own)[-1].weights == (1 + points) * own


def test_what_a_method_without_curvature_leaves_out_is_left_out(case):
    needs = needs_of(case, "tracin")[-1]
    assert needs.curvature == 0
    assert needs.least == needs.weights + needs.largest[1]
    assert torch.tensor(needs.most) >= needs.least
