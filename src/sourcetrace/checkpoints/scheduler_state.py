"""Learning rates rebuilt from a saved torch scheduler of a known closed form.

A scheduler's state has no class name; its settings tell the class. Rebuilt are StepLR,
MultiStepLR, ExponentialLR, CosineAnnealingLR and LinearLR; of others (a LambdaLR holds a
function, OneCycleLR moves the momentum too) nothing is rebuilt.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

_COMMON = {
    "base_lrs",
    "last_epoch",
    "verbose",
    "_step_count",
    "_is_initial",
    "_get_lr_called_within_step",
    "_last_lr",
}


def scheduled_rates(
    state: Mapping[str, Any], *, steps: int, current: Sequence[float]
) -> Tensor | None:
    """Return the learning rate of every step so far, [steps, groups], or None if not known.

    The scheduler may have been stepped after every optimiser step, or every k-th.

    Args:
        state: `scheduler.state_dict()`, saved after `scheduler.step()`.
        steps: Optimiser steps since the scheduler was made.
        current: The groups' learning rates in the checkpoint; what is rebuilt must end there.
    """
    form = _closed_form(state)
    epochs = state.get("last_epoch")
    bases = state.get("base_lrs")
    if form is None or not isinstance(epochs, int) or not bases or epochs < 1 or steps % epochs:
        return None
    if len(bases) != len(current):
        return None
    try:
        ending = [form(base, epochs) for base in bases]
    except (ArithmeticError, TypeError, ValueError):  # settings that torch would not take
        return None
    # torch's recursive forms drift from the closed ones by rounding.
    if not all(
        math.isclose(rebuilt, saved, rel_tol=1e-6, abs_tol=1e-12)
        for rebuilt, saved in zip(ending, current, strict=True)
    ):
        return None
    table = torch.tensor(
        [[form(base, epoch) for base in bases] for epoch in range(epochs)], dtype=torch.float64
    )
    return table.repeat_interleave(steps // epochs, dim=0)


def _closed_form(state: Mapping[str, Any]) -> Callable[[float, int], float] | None:
    """Return (base rate, epoch) -> rate."""
    own = set(state) - _COMMON
    if own == {"step_size", "gamma"}:
        size, gamma = state["step_size"], state["gamma"]
        return lambda base, epoch: float(base * gamma ** (epoch // size))
    if own == {"milestones", "gamma"}:
        milestones, gamma = sorted(state["milestones"].elements()), state["gamma"]
        return lambda base, epoch: float(base * gamma ** sum(one <= epoch for one in milestones))
    if own == {"gamma"}:
        gamma = state["gamma"]
        return lambda base, epoch: float(base * gamma**epoch)
    if own == {"T_max", "eta_min"}:
        period, least = state["T_max"], state["eta_min"]
        return lambda base, epoch: float(
            least + (base - least) * (1 + math.cos(math.pi * epoch / period)) / 2
        )
    if own == {"start_factor", "end_factor", "total_iters"}:
        start, end, total = (state[key] for key in ("start_factor", "end_factor", "total_iters"))
        return lambda base, epoch: float(base * (start + (end - start) * min(epoch / total, 1.0)))
    return None
