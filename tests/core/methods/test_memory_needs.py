"""What is said to be held is what is held, and every stage is kept within its share."""

import pytest
import torch
from torch import nn

from sourcetrace.core.layers.discovery import find_layers
from sourcetrace.core.methods.memory_needs import MemoryNeeds
from sourcetrace.core.plan.plan import AttributionPlan
from sourcetrace.core.training.segments import CheckpointRecord, partition
from sourcetrace.tasks import ClassificationTask
from tests.tiny import case_plan, covariances_at, fit_segment, gradient_source, tiny_case, wide_case

TASK = ClassificationTask()


@pytest.fixture(params=[tiny_case, wide_case])
def case(request):
    return request.param(stages=48 * "a")


def needs_of(case, method="source", kept=1, free=2**40):
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
    engine, plan, whole = needs_of(case)
    assert all(len(stage.groups) == 1 for stage in whole.stages.values())
    assert all(stage.held == stage.most for stage in whole.stages.values())
    covariances = {point.id: covariances_at(engine, point) for point in plan.points}
    sums = [
        bytes_of(one.activation, one.pseudo_gradient)
        for one in covariances[plan.points[0].id].values()
    ]
    assert whole.extraction.most == sum(sums) + max(sums)
    fitted = fit_segment(engine, plan.segments[0], covariances)
    parameters = sum(layer.size for layer in engine.coverage.layers)
    # And P̄^½, where an adaptive optimiser has it, and the squares; one layer is decomposed.
    assert whole.fitting.most - 2 * 8 * parameters - 4 * max(sums) == sum(
        bytes_of(one.basis.inputs, one.basis.outputs, one.eigenvalues) for one in fitted.values()
    )
    # Responses of two segments, six rows each.
    assert whole.scoring.held > 2 * 6 * 8 * parameters


def test_layers_that_do_not_fit_together_are_taken_in_groups(case):
    engine, _, whole = needs_of(case)
    layers = list(engine.coverage.layers)
    for name, stage in whole.stages.items():
        # A layer alone fits: the share of the memory for layers is its size.
        needs = needs_of(case, free=int(stage.least / 0.39))[-1]
        found = needs.stages[name]
        assert [layer for group in found.groups for layer in group] == layers
        assert len(found.groups) > 1
        assert found.least == stage.least
        assert found.held <= 0.4 / 0.39 * stage.least
        assert found.largest in {layer.name for layer in layers}
    alone = needs_of(case, free=1)[-1]
    assert alone.least == whole.least
    assert all(len(group) == 1 for stage in alone.stages.values() for group in stage.groups)
    assert len(needs_of(case, "scaled_source", free=1)[-1].fitting.groups) > 1
    for method in ("retrac", "trak"):
        joint = needs_of(case, method, free=1)[-1].scoring
        assert (joint.least, joint.largest, len(joint.groups)) == (joint.most, "", 1)


def test_weights_count_once_for_the_model_and_for_every_checkpoint_that_is_kept():
    case = tiny_case()
    own = bytes_of(*case.model.state_dict().values())
    _, plan, elsewhere = needs_of(case, kept=0)
    points = len({name for point in plan.points for name in point.checkpoints})
    assert elsewhere.weights == own
    read = needs_of(case, kept=own - 1)[-1]  # one at a time, and mapped from then on
    assert (read.weights, read.weights_on_disk) == (2 * own, points * own)
    kept = needs_of(case, kept=2 * own + 1)[-1]
    assert (kept.weights, kept.weights_on_disk) == (3 * own, 0)
    assert needs_of(case, kept=100 * own)[-1].weights == (1 + points) * own


def test_a_method_without_curvature_fits_none(case):
    needs = needs_of(case, "tracin")[-1]
    assert needs.fitting.most == 0
    assert needs.weights < needs.least <= needs.most


class Decoder(nn.Module):
    """The matrices of a GPT-2 of 24 blocks, 2,048 wide: 1.3 billion parameters."""

    def __init__(self):
        super().__init__()
        self.tokens, self.head = nn.Embedding(50257, 2048), nn.Linear(2048, 50257, bias=False)
        self.head.weight = self.tokens.weight
        widths = (2048, 6144), (2048, 2048), (2048, 8192), (8192, 2048)
        self.blocks = nn.ModuleList(
            nn.ModuleList(nn.Linear(*one) for one in widths) for _ in range(24)
        )

    def forward(self, tokens):
        hidden = self.tokens(tokens)
        for attention, projection, up, down in self.blocks:
            hidden = hidden + projection(attention(hidden)[..., :2048])
            hidden = hidden + down(up(hidden))
        return self.head(hidden)


def test_a_model_of_a_billion_parameters_is_planned_without_its_weights():
    with torch.device("meta"):
        model, tokens = Decoder(), torch.zeros(2, 3, dtype=torch.long)
    layers = find_layers(model, lambda: model(tokens)).layers
    size = sum(layer.size for layer in layers)
    assert size > 1.3e9
    records = [CheckpointRecord(f"c{n}", 10 * n, "a", 0.1, 0.0, 0.0) for n in (1, 2)]
    plan = AttributionPlan.of("source", partition(records, 2), {"a": torch.arange(9)})

    def needs_with(gib, queries=4):
        return MemoryNeeds.of(
            model, layers, plan, "source", queries=queries, kept=2**26, free=gib * 2**30
        )

    needs = needs_with(32)
    weights = 4 * sum(one.numel() for one in model.parameters())
    assert (needs.weights, needs.weights_on_disk) == (2 * weights, 2 * weights)
    assert needs.extraction.most > 35e9  # all covariances of a checkpoint, in float64
    for stage in needs.stages.values():
        assert 1 < len(stage.groups) < len(layers)
        assert stage.held <= 0.4 * 32 * 2**30 < stage.most
    assert 16 * 2**30 < needs.least < 32 * 2**30
    # Of 400 queries no layer's responses fit that is as large as the embedding.
    assert needs_with(32, queries=400).scoring.largest == "tokens"
    assert needs_with(32, queries=400).least > 300e9
