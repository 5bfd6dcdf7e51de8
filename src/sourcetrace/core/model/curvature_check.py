"""Whether the sampled loss's second moment is as large as the training loss's Hessian.

At outputs of 0 and by their traces: no draw is rare there, as it is where a model is sure, and
a loss that is off by its number of tokens is off at any outputs.
"""

import math
from collections.abc import Iterable
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from sourcetrace.core.machine.nested import map_tensors
from sourcetrace.core.model.objective import Objective, sampled_loss

_NUMBERS = 2**22
"""Of the outputs, over all draws; many outputs are a mean over many in each draw."""

_FEWEST = 4


def sampled_loss_share(
    objective: Objective, outputs: Any, batch: Any, generators: Iterable[torch.Generator]
) -> float | None:
    """Return E‖∇ sampled_loss‖² by the trace of the Hessian of `train_loss`; 1 is right.

    Args:
        objective: The losses.
        outputs: Of a forward pass with gradients.
        batch: Its batch.
        generators: Of the draws, a generator each; not all are used where there are many outputs.

    Returns:
        None where the losses cannot be taken at outputs of 0, or have no curvature there, and
        where the objective says by `exact_curvature` that another one stands in for the Hessian.
    """
    if not getattr(objective, "exact_curvature", True):
        return None
    zeros: list[Tensor] = []

    def at_zero(tensor: Tensor) -> Tensor:
        if not tensor.requires_grad:
            return tensor
        zeros.append(torch.zeros_like(tensor, requires_grad=True))
        return zeros[-1]

    outputs = map_tensors(outputs, at_zero)
    trace = moment = 0.0
    if not zeros:
        return None
    try:
        loss = objective.train_loss(outputs, batch).sum()
        slopes = torch.autograd.grad(loss, zeros, create_graph=True, materialize_grads=True)
        bent = [(slope, zero) for slope, zero in zip(slopes, zeros, strict=True) if slope.grad_fn]
        draws = max(_FEWEST, _NUMBERS // sum(one.numel() for one in zeros))
        for generator in islice(generators, draws) if bent else ():
            along = [
                2 * torch.randint(2, zero.shape, generator=generator).to(zero) - 1
                for _, zero in bent
            ]
            # As sums: with `grad_outputs`, autograd imports SymPy.
            curved = torch.autograd.grad(
                [(slope * v).sum() for (slope, _), v in zip(bent, along, strict=True)],
                [zero for _, zero in bent],
                retain_graph=True,
                materialize_grads=True,
            )
            trace += sum(float((v * w).sum()) for v, w in zip(along, curved, strict=True))
            drawn = sampled_loss(objective, outputs, generator, batch).sum()
            found = torch.autograd.grad(drawn, zeros, materialize_grads=True)
            moment += sum(float(one.square().sum()) for one in found)
    except (RuntimeError, ValueError):  # a loss that has no value at 0, or no second derivative
        return None
    return moment / trace if 0 < trace < math.inf and moment < math.inf else None
