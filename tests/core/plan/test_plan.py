"""What each method evaluates."""

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from sourcetrace.core.layers.discovery import find_layers
from sourcetrace.core.plan.plan import AttributionPlan
from sourcetrace.core.training.optimizer_settings import ParameterSettings
from sourcetrace.core.training.segments import Segment
from sourcetrace.errors import InputError

SEGMENTS = [
    Segment(1, "first", 0.5, 0.01, ("c1", "c2")),
    Segment(2, "first", 0.6, 0.01, ("c3",)),
    Segment(3, "second", 0.7, 0.02, ("c4", "c5")),
]
STAGES = {"first": torch.tensor([0, 2, 5]), "second": torch.tensor([1, 3, 4])}


def plan_of(method, segments=SEGMENTS, stages=STAGES):
    return AttributionPlan.of(method, segments, stages)


def visited(plan) -> list[list[tuple[str, ...]]]:
    return [[point.checkpoints for point in planned.points] for planned in plan.segments]


@pytest.mark.parametrize("method", ["source", "tracin"])
def test_every_checkpoint_is_a_point_of_its_segment(method):
    plan = plan_of(method)
    assert visited(plan) == [[("c1",), ("c2",)], [("c3",)], [("c4",), ("c5",)]]
    assert [point.id for point in plan.points] == ["c1", "c2", "c3", "c4", "c5"]
    assert plan.members[0].final.id == "c5"
    assert plan.uses_curvature is (method == "source")


def test_fast_source_takes_one_point_a_segment_and_the_final_weights_besides():
    plan = plan_of("fast_source")
    assert visited(plan) == [[("c1", "c2")], [("c3",)], [("c4", "c5")]]
    assert plan.members[0].final.checkpoints == ("c5",)
    assert [point.id for point in plan.points][-1] == "c5"
    assert len(plan.points) == 4
    assert plan.uses_curvature


def test_a_last_segment_of_one_checkpoint_shares_the_final_point():
    plan = plan_of("fast_source", SEGMENTS[:2])
    assert plan.segments[-1].points == (plan.members[0].final,)
    assert len(plan.points) == 2


@pytest.mark.parametrize("method", ["source", "fast_source", "influence"])
def test_what_is_drawn_does_not_depend_on_the_names_of_checkpoints(method):
    records = [Segment(1, "first", 0.5, 0.0, names, steps=(3, 6)) for names in ("ab", "cd")]
    drawn = [[point.draws for point in plan_of(method, [one]).points] for one in records]
    assert drawn[0] == drawn[1]
    assert len(set(drawn[0])) == len(drawn[0])


@pytest.mark.parametrize("method", ["influence", "gradient_similarity"])
def test_methods_without_training_know_the_final_checkpoint_and_one_pool_of_data(method):
    plan = plan_of(method)
    assert visited(plan) == [[("c5",)]]
    assert plan.points == (plan.members[0].final,)
    (planned,) = plan.segments
    assert planned.examples.tolist() == list(range(6))
    assert plan.members[0].final.curvature_examples.tolist() == list(range(6))
    assert plan.uses_curvature is (method == "influence")


@pytest.mark.parametrize("method", ["source", "fast_source", "tracin"])
def test_a_segment_reads_its_own_stage_and_the_final_point_everything(method):
    plan = plan_of(method)
    for planned in plan.segments:
        own = STAGES[planned.segment.stage].tolist()
        assert planned.examples.tolist() == own
        for point in planned.points:
            assert point.curvature_examples.tolist() == own
            if point is not plan.members[0].final:
                assert point.examples.tolist() == own
    # Every example's own loss is wanted at the final weights: for signals and self-influence.
    assert plan.members[0].final.examples.tolist() == list(range(6))


@pytest.mark.parametrize("method", ["source", "fast_source", "influence"])
def test_a_sample_for_the_curvature_changes_nothing_else(method):
    def sample(examples):
        return examples[:2]

    whole = plan_of(method)
    plan = AttributionPlan.of(method, SEGMENTS, STAGES, curvature_sample=sample)
    for one, before in zip(plan.points, whole.points, strict=True):
        assert one.curvature_examples.tolist() == before.curvature_examples[:2].tolist()
        assert one.examples.tolist() == before.examples.tolist()
    for one, before in zip(plan.segments, whole.segments, strict=True):
        assert one.examples.tolist() == before.examples.tolist()


def test_filters_take_the_step_mass_and_decay_of_their_segment():
    flat = torch.zeros(1, dtype=torch.float64)
    assert [s.filter.response(flat).item() for s in plan_of("tracin").segments] == [0.5, 0.6, 0.7]
    for planned in plan_of("source").segments:
        decay = torch.tensor(planned.segment.step_mass * planned.segment.weight_decay)
        left = planned.filter.propagation(flat).item()
        assert left == pytest.approx(torch.exp(-decay).item())


def test_a_stage_without_training_examples_is_refused():
    expected = "c4, c5 belong to stage 'second', but no training example does.*has: first"
    with pytest.raises(InputError, match=expected):
        plan_of("source", stages={"first": STAGES["first"]})
    with pytest.raises(InputError, match="has: first, second"):
        plan_of("source", stages={**STAGES, "second": torch.tensor([], dtype=torch.long)})


def test_a_layer_has_the_filter_of_its_parameters_settings():
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2), nn.Linear(2, 2))
    layers = find_layers(model, lambda: model(torch.zeros(1, 2))).layers
    slow, fast = ParameterSettings(0.5, 0.0), ParameterSettings(2.0, 0.1)
    settings = {"0.weight": slow, "0.bias": slow, "1.weight": fast, "1.bias": fast}
    segment = Segment(1, "first", 0.5, 0.0, ("c1",), settings=settings)
    (planned,) = AttributionPlan.of("source", [segment], STAGES, layers=layers).segments
    flat = torch.zeros(1, dtype=torch.float64)
    assert planned.filter_of("0").propagation(flat).item() == 1.0
    assert planned.filter_of("1").propagation(flat).item() == pytest.approx(math.exp(-0.2))
    # The optimiser was not given the third layer in this segment: nothing moves it.
    assert planned.filter_of("2").response(flat).item() == 0.0
    assert planned.filter_of("2").propagation(flat).item() == 1.0
    mixed = replace(segment, settings={**settings, "0.bias": fast})
    with pytest.raises(InputError, match="0: its parameters have different optimiser settings"):
        AttributionPlan.of("source", [mixed], STAGES, layers=layers)
    (pooled,) = AttributionPlan.of("influence", [mixed], STAGES, layers=layers).segments
    assert not pooled.layer_filters


def test_adams_decay_reaches_the_walk_and_tracin_stays_plain():
    segment = Segment(1, "first", 0.5, 0.2, ("c1",), "Adam")
    (planned,) = AttributionPlan.of("source", [segment], STAGES).segments
    assert planned.filter.coupled_decay == 0.2
    (planned,) = AttributionPlan.of("tracin", [segment], STAGES).segments
    assert planned.filter.coupled_decay == 0.0
    assert not planned.filter.uses_curvature
