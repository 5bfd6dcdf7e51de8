"""Mini-batch training differentiated by the weight of every example, along its own batch order.

The weight of an example multiplies its loss in the mean of each batch it is in, and is 1 in
training. For gradient descent that derivative is the recursion
r ← (I − (η/B) Σ ∇²ℓ) r + (η/B) ∇ℓ; here autograd goes through the optimiser's update itself,
so that momentum, weight decay and Adam's moments are all part of it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass(frozen=True)
class UpdateRule:
    """An optimiser's settings, named as torch names them.

    Attributes:
        kind: "sgd", "adam" or "adamw".
    """

    kind: str
    lr: float
    momentum: float = 0.0
    dampening: float = 0.0
    nesterov: bool = False
    weight_decay: float = 0.0
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    amsgrad: bool = False


@dataclass(frozen=True)
class Phase:
    """One part of training with its own examples and a new optimiser.

    Attributes:
        losses: Parameters [P], numbers of examples [B] -> their losses [B].
        examples: How many there are.
        batches: Numbers of the examples of every step.
        rule: The optimiser.
        rates: Learning rate of every step; by default the rule's.
    """

    losses: Callable[[Tensor, Tensor], Tensor]
    examples: int
    batches: Sequence[Tensor]
    rule: UpdateRule
    rates: Sequence[float] = ()


@dataclass
class Trajectory:
    """What training went through.

    Attributes:
        parameters: After every step, [P] each.
        denominators: Adam's √v̂ + ε after every step, [P] each.
        weights: The example weights of each phase, that `parameters` depend on.
    """

    parameters: list[Tensor] = field(default_factory=list)
    denominators: list[Tensor] = field(default_factory=list)
    weights: list[Tensor] = field(default_factory=list)


def train(phases: Sequence[Phase], start: Tensor) -> Trajectory:
    """Train from `start`, keeping the dependence on the example weights."""
    seen = Trajectory()
    parameters = start.clone().requires_grad_()
    for phase in phases:
        weights = torch.ones(phase.examples, dtype=start.dtype, requires_grad=True)
        seen.weights.append(weights)
        state: dict[str, Tensor] = {}
        for number, batch in enumerate(phase.batches):
            loss = (weights[batch] * phase.losses(parameters, batch)).mean()
            (gradient,) = torch.autograd.grad(loss, parameters, create_graph=True)
            rate = phase.rates[number] if len(phase.rates) else phase.rule.lr
            parameters = _updated(phase.rule, rate, parameters, gradient, state, number + 1)
            seen.parameters.append(parameters)
            if "denominator" in state:
                seen.denominators.append(state["denominator"].detach())
    return seen


def removal_effects(
    phases: Sequence[Phase], start: Tensor, measure: Callable[[Tensor], Tensor]
) -> list[Tensor]:
    """Return minus the derivative of every measurement by every example's weight.

    Args:
        phases: The training.
        start: Initial parameters, [P].
        measure: Final parameters -> measurements, [Q].

    Returns:
        One [Q, N] a phase.
    """
    seen = train(phases, start)
    measured = measure(seen.parameters[-1])
    rows = [
        torch.autograd.grad(one, seen.weights, retain_graph=True, allow_unused=False)
        for one in measured
    ]
    return [-torch.stack([row[number] for row in rows]) for number in range(len(phases))]


def shuffled_batches(examples: int, batch_size: int, epochs: int, *, seed: int) -> list[Tensor]:
    """Return the batches of shuffled epochs; `batch_size` divides `examples`."""
    generator = torch.Generator().manual_seed(seed)
    orders = [torch.randperm(examples, generator=generator) for _ in range(epochs)]
    return [batch for order in orders for batch in order.split(batch_size)]


def _updated(
    rule: UpdateRule,
    rate: float,
    parameters: Tensor,
    gradient: Tensor,
    state: dict[str, Tensor],
    step: int,
) -> Tensor:
    if rule.kind == "adamw":
        parameters = parameters * (1 - rate * rule.weight_decay)
    else:
        gradient = gradient + rule.weight_decay * parameters
    if rule.kind == "sgd":
        if not rule.momentum:
            return parameters - rate * gradient
        if "velocity" in state:
            velocity = rule.momentum * state["velocity"] + (1 - rule.dampening) * gradient
        else:
            velocity = gradient
        state["velocity"] = velocity
        return parameters - rate * (
            gradient + rule.momentum * velocity if rule.nesterov else velocity
        )
    zeros = torch.zeros_like(gradient)
    first, second = rule.betas
    state["mean"] = first * state.get("mean", zeros) + (1 - first) * gradient
    state["square"] = second * state.get("square", zeros) + (1 - second) * gradient**2
    square = state["square"]
    if rule.amsgrad:
        state["largest"] = torch.maximum(state.get("largest", zeros), square)
        square = state["largest"]
    state["denominator"] = (square / (1 - second**step)).sqrt() + rule.eps
    return parameters - rate * (state["mean"] / (1 - first**step)) / state["denominator"]
