"""Losses of a regressor, and the unit variance of its sampled residuals."""

import pytest
import torch
from torch import Tensor

from sourcetrace.core.errors import InputError
from sourcetrace.core.objective import ExampleGenerator
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
    """Return output minus sampled target: the gradient of the sampled loss."""
    outputs = outputs.clone().requires_grad_()
    loss = TASK.sampled_loss(outputs, generator)
    assert loss.shape == (len(outputs),)
    (gradient,) = torch.autograd.grad(loss.sum(), outputs)
    gradient = gradient.reshape(-1)
    assert_close(loss, gradient.square() / 2, tolerance=1e-6)
    return gradient


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("per_example", [True, False])
def test_sampled_residuals_are_standard_normal(per_example, dtype):
    draws = 4000
    if per_example:
        generator: torch.Generator = ExampleGenerator.for_examples(list(range(draws)))
    else:
        generator = torch.Generator().manual_seed(4)
    # Far from 0: a residual is around the output, not around 0.
    found = residuals(torch.full((draws, 1), 3.0, dtype=dtype), generator).double()
    # Three standard errors: 0.047 of the mean, 0.067 of the variance, 0.232 of the fourth moment.
    assert found.mean().abs() < 0.05
    assert abs(found.var() - 1) < 0.07
    assert abs(found.pow(4).mean() - 3) < 0.47


def test_a_sampled_target_depends_on_the_example_alone():
    with seeded(62):
        outputs = torch.randn(9, dtype=torch.float64)
    seeds = list(range(70, 79))
    whole = residuals(outputs, ExampleGenerator.for_examples(seeds))
    order = [4, 0, 8, 2]
    some = residuals(outputs[order], ExampleGenerator.for_examples([seeds[i] for i in order]))
    # The residual is recovered from output - (output + residual).
    assert_close(some, whole[order], tolerance=1e-14)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("largest", [False, True])
def test_the_ends_of_the_uniform_draws_give_finite_residuals(monkeypatch, largest, dtype):
    draw = 1 - torch.finfo(dtype).eps if largest else 0.0

    def extreme(generator: torch.Generator, shape: list[int], *, like: Tensor) -> Tensor:
        return torch.full(tuple(shape), draw, dtype=torch.float64).to(like)

    monkeypatch.setattr("sourcetrace.tasks.regression.uniform", extreme)
    loss = TASK.sampled_loss(torch.zeros(2, dtype=dtype), torch.Generator())
    assert loss.isfinite().all()
    assert (loss > 0).all()


def test_describes_the_prediction():
    described = TASK.describe(torch.tensor([[1.23456], [-2.0]]), None)
    assert described == {"predicted_label": ["1.235", "-2"]}
