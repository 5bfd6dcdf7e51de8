"""Expectations over signs, and Hessians, of one part's loss."""

import itertools
from functools import partial
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

from sourcetrace.core.model.objective import ExampleGenerator
from sourcetrace.tasks import loss_task
from sourcetrace.tasks.loss_task import LossTask
from sourcetrace.tasks.losses import Loss


def every_sign(count: int) -> Tensor:
    """Return all combinations of `count` signs, whose mean is the expectation, [2^count, count]."""
    return torch.tensor(list(itertools.product((-1.0, 1.0), repeat=count)), dtype=torch.float64)


def second_moment(loss: Loss, outputs: Tensor, target: Tensor) -> Tensor:
    """Return E[∇ ∇ᵀ] of the random gradient of one part, [P, P]."""
    noise = every_sign(outputs.numel())
    many = outputs.expand(len(noise), *outputs.shape)
    targets = target.expand(len(noise), *target.shape)
    gradients = loss.root(many, targets, noise.reshape(many.shape)).reshape(len(noise), -1)
    assert gradients.mean(0).abs().max() < 1e-12
    return gradients.T @ gradients / len(noise)


def hessian(loss: Loss, outputs: Tensor, target: Tensor) -> Tensor:
    """Return the second derivatives of one part's loss, [P, P]."""

    def value(one: Tensor) -> Tensor:
        return loss.value(one.unsqueeze(0), target.unsqueeze(0)).sum()

    found: Tensor = torch.autograd.functional.hessian(value, outputs)
    return found.reshape(outputs.numel(), outputs.numel())


def task_values(task: LossTask, outputs: Tensor, batch: Any) -> Tensor:
    """Return training loss, measurement and sampled loss, [3, B], one draw an example."""
    generator = ExampleGenerator.for_examples(range(len(outputs)))
    values = [
        task.train_loss(outputs, batch),
        task.measurement(outputs, batch),
        task.sampled_loss(outputs, generator, batch),
    ]
    return torch.stack(values)


def check_curvature(task: LossTask, outputs: Tensor, batch: Any) -> None:
    """Compare the second moment over all signs with the Hessian of every example's loss."""
    for example in range(len(outputs)):
        one = outputs[example : example + 1]
        noise = every_sign(one.numel())
        many = one.repeat(len(noise), *(1 for _ in one.shape[1:])).requires_grad_()
        with patch.object(
            loss_task, "signs", lambda *_, like, signs=noise: signs.reshape(like.shape)
        ):
            drawn = task.sampled_loss(
                many, torch.Generator(), _repeated(batch, example, len(noise))
            )
        assert drawn.shape == (len(noise),)
        gradients = torch.autograd.grad(drawn.sum(), many)[0].reshape(len(noise), -1)
        expected = torch.autograd.functional.hessian(
            partial(_loss, task, _repeated(batch, example, 1)), one
        ).reshape(noise.shape[1], -1)
        moment = gradients.T @ gradients / len(noise)
        assert torch.allclose(moment, expected, rtol=1e-10, atol=1e-13)


def _loss(task: LossTask, batch: Any, outputs: Tensor) -> Tensor:
    return task.train_loss(outputs, batch).sum()


def _repeated(batch: Any, example: int, times: int) -> tuple[Tensor | None, ...]:
    """Return a batch of one example, several times."""
    return tuple(
        None if part is None else part[example].expand(times, *part.shape[1:]) for part in batch
    )
