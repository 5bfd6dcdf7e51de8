"""Losses of a regressor, and the unit variance of its sampled residuals."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812, the name everybody reads
from torch import Tensor

from sourcetrace.core.model.objective import ExampleGenerator
from sourcetrace.errors import InputError
from sourcetrace.tasks import RegressionTask
from sourcetrace.tasks.losses import GaussianNLL, Huber, Loss, Quantile
from tests.tasks.losses.checks import check_curvature
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


def several(loss: Loss, reduction: Any = "mean") -> RegressionTask:
    task = RegressionTask()
    task.loss, task.reduction = loss, reduction
    return task


@pytest.mark.parametrize(("reduction", "divisor"), [("mean", 3), ("sum", 1), (1.5, 1.5)])
def test_several_outputs_are_reduced_as_asked(reduction, divisor):
    with seeded(63):
        outputs, targets = torch.randn(2, 4, 3, dtype=torch.float64)
    task = several(Huber(0.8), reduction)
    losses = F.huber_loss(outputs, targets, delta=0.8, reduction="none")
    found = task.train_loss(outputs, (None, targets))
    assert_close(found, losses.sum(1) / divisor, tolerance=1e-12)
    check_curvature(task, outputs, (None, targets))
    assert torch.equal(task.measurement(outputs, (None, targets)), found)
    described = task.describe(outputs, (None, targets))["predicted_label"]
    assert described[0] == ", ".join(f"{value:.4g}" for value in outputs[0].tolist())


def test_the_default_is_the_mean_of_squares_times_the_scale():
    class Task(RegressionTask):
        loss_scale = 1.0

    with seeded(64):
        outputs, targets = torch.randn(2, 4, 3, dtype=torch.float64)
    expected = F.mse_loss(outputs, targets)
    assert Task().train_loss(outputs, (None, targets)).mean() == pytest.approx(expected.item())
    check_curvature(Task(), outputs, (None, targets))
    without = Task().sampled_loss(outputs, torch.Generator().manual_seed(1))
    batch = (None, targets)
    assert torch.equal(
        without, Task().sampled_loss(outputs, torch.Generator().manual_seed(1), batch)
    )


def test_a_loss_is_a_line_of_a_class_or_set_by_its_arguments():
    class Fixed(RegressionTask):
        loss = Huber(2.0)

    class Chosen(RegressionTask):
        def __init__(self, delta):
            self.loss = Huber(delta)

    batch = (None, torch.zeros(2))
    outputs = torch.tensor([1.0, 3.0])
    assert Fixed().train_loss(outputs, batch).tolist() == [0.5, 4.0]
    assert torch.equal(Chosen(2.0).train_loss(outputs, batch), Fixed().train_loss(outputs, batch))


@pytest.mark.parametrize("shape", [(2,), (3, 2)])
def test_mean_and_variance_are_the_last_dimension(shape):
    with seeded(65):
        outputs = torch.randn(4, *shape, dtype=torch.float64)
        targets = torch.randn(4, *shape[:-1], dtype=torch.float64)
    losses = F.gaussian_nll_loss(outputs[..., 0], targets, outputs[..., 1].exp(), reduction="none")
    task = several(GaussianNLL())
    found = task.train_loss(outputs, (None, targets))
    assert_close(found, losses.reshape(4, -1).mean(1), tolerance=1e-12)
    assert not task.exact_curvature
    means = outputs[..., 0].reshape(4, -1).tolist()
    assert task.describe(outputs, None)["predicted_label"] == [
        ", ".join(f"{mean:.4g}" for mean in row) for row in means
    ]
    with pytest.raises(InputError, match=r"GaussianNLL got outputs of shape \[4\]; .*\[B, 2\]"):
        task.train_loss(torch.zeros(4), (None, torch.zeros(4)))


def test_outputs_may_be_quantiles_of_one_target():
    class Quantiles(RegressionTask):
        loss = Quantile((0.1, 0.5, 0.9), width=0.5)

        def targets_of(self, batch):
            return batch[1].unsqueeze(1).expand(-1, 3)

    outputs, targets = torch.zeros(2, 3), torch.tensor([1.0, -1.0])
    found = Quantiles().train_loss(outputs, (None, targets))
    assert found.tolist() == pytest.approx([0.5, 0.5])
    with pytest.raises(InputError, match=r"shape \[2, 3\] and the targets \[2\]"):
        several(Huber()).train_loss(outputs, (None, targets))
