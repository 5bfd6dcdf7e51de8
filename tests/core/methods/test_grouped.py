"""Groups of layers score as all layers at once, block by block, one group's scorer at a time."""

import weakref

import pytest
import torch

from sourcetrace.core.methods.fit import fit_segment
from sourcetrace.core.methods.grouped import GroupedScorer
from sourcetrace.core.methods.scorers import MeanScorer
from sourcetrace.core.model.examples import Examples
from sourcetrace.tasks import ClassificationTask
from tests.tiny import (
    KeepsNothing,
    assert_close,
    case_plan,
    covariances_at,
    gradient_source,
    tiny_case,
)

TASK = ClassificationTask()


class Prepared:
    """Makes scorers of a case's layers, one at a time, and remembers for which."""

    def __init__(self, case, method="source"):
        self.engine = gradient_source(case, TASK, cache=KeepsNothing())
        self.plan = case_plan(case, method, segments=2)
        covariances = {point.id: covariances_at(self.engine, point) for point in self.plan.points}
        self.curvatures = [
            fit_segment(self.engine, one, covariances) if self.plan.uses_curvature else None
            for one in self.plan.segments
        ]
        items = list(zip(case.query_images, case.query_labels, strict=True))
        self.queries = Examples(items, [f"query-{i}" for i in range(len(items))], TASK.collate)
        self.method, self.layers, self.made = method, [], []

    def __call__(self, engine, curvatures):
        # What the last group's holds makes room first.
        assert all(one() is None for one in self.made)
        layers = engine.coverage.layers
        self.layers.append([layer.name for layer in layers])
        for one in curvatures:
            assert one is None or list(one) == self.layers[-1]
        scorer = MeanScorer.of(
            self.method,
            engine,
            self.plan,
            curvatures,
            self.queries,
            higher_is_better=TASK.measurement_higher_is_better,
        )
        self.made.append(weakref.ref(scorer))
        return scorer

    def scorer(self, size):
        layers = self.engine.coverage.layers
        groups = [layers[at : at + size] for at in range(0, len(layers), size)]
        return GroupedScorer(self, self.engine, self.curvatures, groups)


@pytest.mark.parametrize("method", ["source", "tracin"])
@pytest.mark.parametrize("size", [1, 2])
def test_scores_are_those_of_all_layers_at_once(method, size):
    prepared = Prepared(tiny_case(8 * "a"), method)
    expected = dict(prepared.scorer(9).scored())
    prepared.layers.clear()
    scorer = prepared.scorer(size)
    found = list(scorer.scored())
    assert [block for block, _ in found] == prepared.engine.blocks() == list(expected)
    names = [layer.name for layer in prepared.engine.coverage.layers]
    assert prepared.layers == [names[at : at + size] for at in range(0, len(names), size)]
    for block, scores in found:
        assert_close(scores.shares, expected[block].shares)
        assert_close(scores.self_influence, expected[block].self_influence)
        for sums, own in zip(scores.checkpoint_sums, expected[block].checkpoint_sums, strict=True):
            assert_close(sums, own)
    whole = prepared.scorer(9)
    checks = whole.prepared(whole.groups[0]).checks
    for one, other in zip(scorer.checks, checks, strict=True):
        assert {choice.layer for choice in one.choices} == set(names)
        assert len(one.choices) == len(other.choices)


def test_every_visit_is_counted_and_a_block_is_there_when_the_last_group_has_it():
    prepared = Prepared(tiny_case(), "tracin")
    visits = []

    def counted(planned):
        for visit in planned:
            visits.append(visit)
            yield visit

    scorer = prepared.scorer(1)
    scored = scorer.scored(progress=counted, self_influence=False)
    blocks, groups = len(prepared.engine.blocks()), len(scorer.groups)
    _, first = next(scored)
    assert len(visits) == (groups - 1) * blocks + 1
    assert first.self_influence.shape[0] == 0
    assert len(list(scored)) == blocks - 1
    assert len(visits) == groups * blocks
    assert {id(group) for group, _ in visits} == set(map(id, scorer.groups))
    assert torch.isfinite(first.shares).all()
