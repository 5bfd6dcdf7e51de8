"""Training run step by step and differentiated, to compare a predicted change with.

Losses are quadratic: example i of a phase has the loss 0.5 (θ - c)ᵀ H_i (θ - c) - b_iᵀ (θ - c),
and the b_i of a phase add up to 0. The full-batch minimum is then c, where training starts and
stays, so that every example's gradient, -b_i, is stationary: what Source assumes is true.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class QuadraticPhase:
    """One part of training with its own examples.

    Attributes:
        curvatures: H_i, [N, P, P].
        slopes: b_i, [N, P], whose sum is 0.
        steps: Full-batch steps taken.
        learning_rate: Of every step.
    """

    curvatures: Tensor
    slopes: Tensor
    steps: int
    learning_rate: float


def removal_effects(
    phases: Sequence[QuadraticPhase],
    center: Tensor,
    measured: Tensor,
    *,
    momentum: float = 0.0,
    weight_decay: float = 0.0,
) -> list[Tensor]:
    """Return minus the derivative of measuredᵀ θ by every example's weight, a row a phase.

    Each weight multiplies one example's loss in the batch mean and is 1 in training. Weight
    decay pulls towards the center, which moves its minimum as little as the losses do.
    """
    weights = [
        torch.ones(len(phase.slopes), dtype=center.dtype, requires_grad=True) for phase in phases
    ]
    parameters = center.clone()
    velocity = torch.zeros_like(center)
    for phase, weight in zip(phases, weights, strict=True):
        for _ in range(phase.steps):
            offset = parameters - center
            gradients = phase.curvatures @ offset - phase.slopes
            step = (weight.unsqueeze(1) * gradients).mean(0) + weight_decay * offset
            velocity = momentum * velocity + step
            parameters = parameters - phase.learning_rate * velocity
    return [-gradient for gradient in torch.autograd.grad(measured @ parameters, weights)]
