"""Losses of a regressor, and the unit variance of its sampled residuals."""

import pytest
import torch
from torch import Tensor

from sourcetrace.core.model.objective import ExampleGenerator
from sourcetrace.errors import InputError
from sourcetrace.tasks import RegressionTask
from tests.tiny import assert_close, seeded

TASK = RegressionTask()


def outputs_and_targets() -> tuple[Tensor, Tensor]:
    with seeded(61):
        return torch.randn(5, dtype=torch.float64), torch.randn(5, dtype=torch.float64)


@pytest.mark.parametrize("output_column", [False, True])
@pytest.mark.parametrize("target_column", [False, True])
def test_the_loss_is_half_the_squared_error_with_or_without_a_column(output_column, target_column):
    outputs, targets = outputs_and_targets()
    loss = TASK.train_loss(
        outputs.unsqueeze(1) if output_column else outputs,
        (None, targets.unsqueeze(1) if target_column else targets),
    )
    expected = [0.5 * (o - t) ** 2 for o, t in zip(outputs.tolist(), targets.tolist(), strict=True)]
    assert loss.tolist() == pytest.approx(expected, rel=1e-14)


def test_the_measurement_is_the_loss_and_lower_is_better():
    outputs, targets = outputs_and_targets()
    batch = (None, targets)
    assert torch.equal(TASK.measurement(outputs, batch), TASK.train_loss(outputs, batch))
    assert not TASK.measurement_higher_is_better


def test_shapes_that_would_broadcast_are_refused():
    with pytest.raises(InputError, match=r"outputs have shape \[5\] and the targets \[1\]"):
        TASK.train_loss(torch.zeros(5), (None, torch.zeros(1)))


def residuals(outputs: Tensor, generator: torch.Generator) -> Tensor:
    """Return output minus sampled target, [B]: the gradient of the sampled loss."""
    outputs = outputs.clone().requires_grad_()
    loss = TASK.sampled_loss(outputs, generator)
    assert loss.shape == (len(outputs),)
    return torch.autograd.grad(loss.sum(), outputs)[0].reshape(-1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("per_example", [True, False])
def test_sampled_residuals_have_unit_mean_square_and_no_mean(per_example, dtype):
    draws = 4000
    if per_example:
        generator: torch.Generator = ExampleGenerator.for_examples(list(range(draws)))
    else:
        generator = torch.Generator().manual_seed(4)
    # Far from 0: a residual is around the output, not around 0.
    found = residuals(torch.full((draws, 1), 3.0, dtype=dtype), generator).double()
    # Every square is 1, not their mean alone: the curvature then has no sampling error.
    assert torch.equal(found.square(), torch.ones(draws, dtype=torch.float64))
    # Three standard errors of the mean.
    assert found.mean().abs() < 0.048


def test_sampled_residuals_are_as_exact_at_large_outputs():
    """Prices, say: float32 has no room for a residual of 1 beside an output of 10⁸."""
    outputs = torch.tensor([5e5 + 0.3, 1e8, -3e9], dtype=torch.float32)
    found = residuals(outputs, torch.Generator().manual_seed(0))
    assert found.abs().tolist() == [1.0] * 3


def test_a_sampled_target_depends_on_the_example_alone():
    with seeded(62):
        outputs = torch.randn(30, dtype=torch.float64)
    seeds = list(range(70, 100))
    whole = residuals(outputs, ExampleGenerator.for_examples(seeds))
    assert len(whole.round().unique()) == 2
    order = torch.randperm(30, generator=torch.Generator().manual_seed(0))
    some = residuals(outputs[order], ExampleGenerator.for_examples([seeds[i] for i in order]))
    assert_close(some, whole[order], tolerance=1e-14)


def test_describes_the_prediction():
    described = TASK.describe(torch.tensor([[1.23456], [-2.0]]), None)
    assert described == {"predicted_label": ["1.235", "-2"]}
