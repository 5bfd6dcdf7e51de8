"""Bare parameters through the whole core."""

import pytest
import torch
import torch.nn.functional as F  # noqa: N812, the name everybody reads

from sourcetrace.core.curvature import covariance_terms
from sourcetrace.core.plan.methods import METHODS
from tests.tiny import (
    KeepsNothing,
    LeastLikelyLabels,
    assert_close,
    attribute,
    bare_case,
    case_plan,
    covariances_at,
    fit_segment,
    gradient_source,
)

TWO_STAGES = "abbaabab"


def apart(name: str) -> str:
    """Settings that make every parameter a layer by itself."""
    return name


# TRAK's random projection depends on the names of the layers.
@pytest.mark.parametrize("method", sorted(set(METHODS) - {"trak"}))
def test_a_bare_bias_scores_as_a_bias_of_a_module(method):
    task = LeastLikelyLabels()
    found, expected = (
        attribute(bare_case(TWO_STAGES, bare=bare), method, task=task, settings_of=apart)
        for bare in (True, False)
    )
    assert_close(found.scores, expected.scores, tolerance=1e-8)
    assert_close(found.self_influence, expected.self_influence, tolerance=1e-8)


@pytest.mark.parametrize("method", ["scaled_source", "trak"])
def test_scores_do_not_depend_on_batches_or_the_cache(method):
    whole = attribute(bare_case(), method, batch_size=8)
    parts = attribute(bare_case(), method, batch_size=3, cache=KeepsNothing())
    assert_close(parts.scores, whole.scores, tolerance=1e-8)
    assert_close(parts.self_influence, whole.self_influence, tolerance=1e-8)


@pytest.mark.parametrize("largest", [0, 1024])
def test_the_block_is_exact_for_small_parameters_and_diagonal_for_large_ones(largest, monkeypatch):
    monkeypatch.setattr(covariance_terms, "MAXIMUM_BARE", largest)
    case = bare_case()
    engine = gradient_source(case, LeastLikelyLabels())
    (planned,) = case_plan(case, "source", segments=1).segments
    covariances = {point.id: covariances_at(engine, point) for point in planned.points}
    block = fit_segment(engine, planned, covariances)["head_bias"]
    rows = []
    for state in case.states.values():
        case.model.load_state_dict(state)
        for image in case.images:
            logits = case.model(image.unsqueeze(0))
            loss = F.cross_entropy(logits, logits.argmin(-1))
            rows += torch.autograd.grad(loss, [case.model.head_bias])
    gradients = torch.stack(rows)
    exact = gradients.T @ gradients / len(gradients)
    columns = torch.eye(3, dtype=torch.float64).reshape(3, 1, 3, 1)
    found = block.apply(lambda eigenvalues: eigenvalues, columns).reshape(3, 3)
    assert_close(found, exact if largest else exact.diag().diag())
    size = covariances["c1"]["head_bias"].pseudo_gradient.numel()
    assert size == (9 if largest else 3)
