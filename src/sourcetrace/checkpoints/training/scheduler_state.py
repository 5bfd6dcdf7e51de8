"""What a saved torch scheduler says of the steps before it: its own class is run again.

A scheduler's state has no class name; its settings tell the class. The class is given the
settings, stepped from the beginning, and believed where its state, the learning rate and the
momentum come out as every checkpoint has them. Where they do not, or where the state leaves
something out (a LambdaLR's function), nothing is said.
"""

import math
from array import array
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch.optim import lr_scheduler as schedulers

from sourcetrace.checkpoints.nested import ODD, is_within, unfolded
from sourcetrace.core.training.schedules import KnownRates

_MOST_EPOCHS = 2_000_000
"""A scheduler takes 6 to 9 microseconds a step."""

_MOST_VALUES, _DEEPEST = 100_000, 100
"""Of a state: they are compared, and copied, a checkpoint."""

_COMMON = {
    "base_lrs",
    "last_epoch",
    "verbose",
    "_step_count",
    "_is_initial",
    "_get_lr_called_within_step",
    "_last_lr",
}
_CYCLED = {"cycle_momentum", "use_beta1"}
_OWN: dict[frozenset[str], type[schedulers.LRScheduler]] = {
    frozenset(own): kind
    for kind, own in (
        (schedulers.StepLR, {"step_size", "gamma"}),
        (schedulers.MultiStepLR, {"milestones", "gamma"}),
        (schedulers.ConstantLR, {"factor", "total_iters"}),
        (schedulers.LinearLR, {"start_factor", "end_factor", "total_iters"}),
        (schedulers.ExponentialLR, {"gamma"}),
        (schedulers.PolynomialLR, {"total_iters", "power"}),
        (schedulers.CosineAnnealingLR, {"T_max", "eta_min"}),
        (schedulers.CosineAnnealingWarmRestarts, {"T_0", "T_i", "T_mult", "T_cur", "eta_min"}),
        (schedulers.OneCycleLR, {"total_steps", "_schedule_phases", "_anneal_func_type"}),
        (
            schedulers.CyclicLR,
            {"max_lrs", "total_size", "step_ratio", "mode", "gamma", "scale_mode"}
            | {"_scale_fn_custom", "base_momentums", "max_momentums"},
        ),
    )
}
_PLATEAU = {"factor", "patience", "threshold", "best", "num_bad_epochs", "cooldown_counter"}


@dataclass(frozen=True)
class SavedScheduler:
    """A scheduler as a checkpoint has it.

    Attributes:
        state: `scheduler.state_dict()`.
        groups: The settings of the optimiser's groups: some schedulers keep theirs there.
        epoch: Optimiser steps of an epoch, where the checkpoint says.
    """

    state: Mapping[str, Any]
    groups: tuple[Mapping[str, Any], ...]
    epoch: int | None = None

    @property
    def epochs(self) -> int | None:
        """How often it was stepped; None where its state does not say."""
        try:
            last = _first_with("last_epoch", self.state)
        except ODD:
            return None
        return last if isinstance(last, int) and 0 <= last <= _MOST_EPOCHS else None


def scheduled_rates(
    saved: Sequence[tuple[int, SavedScheduler]], *, steps: int, origin: str
) -> list[KnownRates]:
    """Return what one scheduler's states say of learning rates and momentum, if anything.

    It may have been stepped after every optimiser step or, an epoch long, after every k-th. k is
    not in its state, but bounded by every checkpoint. Rates are sure where every k that fits two
    checkpoints or more gives the same, or the scheduler moved nothing; else a k between is used.

    Args:
        saved: Optimiser steps since the scheduler was made, rising, and what was saved then.
        steps: Up to which rates are wanted, at least the last of those.
        origin: What to call them in an error.
    """
    try:
        for _, one in saved:
            for _ in unfolded(one.state, _MOST_VALUES, _DEEPEST, LookupError):
                pass
        if saved[-1][1].state.keys() >= _PLATEAU:
            return _on_plateaus(saved, origin)
        return _run_again(saved, steps, origin)
    except ODD:
        return []


def _run_again(
    saved: Sequence[tuple[int, SavedScheduler]], up_to: int, origin: str
) -> list[KnownRates]:
    at = [(step, one.epochs or 0) for step, one in saved]
    if any(one.epochs is None for _, one in saved):
        return []
    # Stepped after the k-th optimiser step; a checkpoint may have been saved just before that.
    least = max(1, *(math.ceil(step / (epoch + 1)) for step, epoch in at))
    most = min([step // epoch for step, epoch in at if epoch], default=least)
    if most < least:
        return []
    # An epoch's length may be known, and the scheduler be stepped after several.
    lengths = {one.epoch for _, one in saved if one.epoch}
    known = {
        length * times
        for length in lengths
        for times in range(math.ceil(least / length), most // length + 1)
    }
    if len(known) == 1:
        (least,) = (most,) = known
    between = (least + most) // 2
    epochs = min((max(up_to, 1) - 1) // least, _MOST_EPOCHS)
    run = _Run(saved[-1][1], epochs, {epoch for _, epoch in at})
    if not run.is_possible or not all(run.agrees(one) for _, one in saved):
        return []
    every = torch.arange(up_to) // between
    every = every[every < len(run.rates)]  # OneCycleLR has an end
    changes = run.changes()
    steps = torch.arange(len(every))
    latest = steps // least
    unsure = latest >= len(changes)
    guessed = unsure | (changes[latest.masked_fill(unsure, 0)] != changes[steps // most])
    last = saved[-1][1]
    # A function of one's own is not in CyclicLR's state; at a cycle's foot it has no effect.
    at_foot = "_scale_fn_custom" in last.state and _alike(
        _rates(last.groups), last.state["base_lrs"]
    )
    alone = most > 1 and len(known) != 1 and len({step for step, epoch in at if epoch}) == 1
    if (at_foot or alone) and changes[-1]:
        guessed[:] = True
    momenta = run.momenta[every] if run.moves_momentum else None
    return [KnownRates(1, run.rates[every], "reconstructed", origin, momenta, guessed)]


def _on_plateaus(saved: Sequence[tuple[int, SavedScheduler]], origin: str) -> list[KnownRates]:
    """Return where a ReduceLROnPlateau did nothing: it only ever lowers a rate."""
    found = []
    if any("initial_lr" in group for _, one in saved for group in one.groups):
        return []  # another scheduler moves the rates as well
    (step, first), patience = saved[0], saved[0][1].state["patience"]
    spans = [(0, step, first)] if first.state["last_epoch"] <= patience else []
    for (begin, before), (end, after) in pairwise(saved):
        if _rates(before.groups) == _rates(after.groups):
            spans.append((begin, end, after))
    for begin, end, one in spans:
        rates = torch.tensor(_rates(one.groups), dtype=torch.float64).expand(end - begin, -1)
        found.append(KnownRates(begin + 1, rates, "reconstructed", origin))
    return found


class _Groups(torch.optim.Optimizer):
    """Parameter groups that a scheduler can move; a whole optimiser loads torch's compiler."""

    def __init__(self, groups: list[dict[str, Any]]) -> None:
        self.param_groups = groups
        self.defaults = {}
        self._opt_called = True  # of a scheduler's warning, should no step come before its own


class _Run:
    """A scheduler run from its beginning.

    Attributes:
        rates, momenta: Of every epoch, [epochs, groups].
        moves_momentum: Whether the scheduler cycles SGD's momentum.
    """

    def __init__(self, last: SavedScheduler, epochs: int, kept: set[int]) -> None:
        """Run it for so many steps of its own, and keep its states after some."""
        groups = [
            {**group, "lr": float(base), "initial_lr": float(base)}
            for group, base in zip(last.groups, _first_with("base_lrs", last.state), strict=True)
        ]
        scheduler = _made(last.state, _Groups(groups))
        self.moves_momentum = _moves_momentum(last.state)
        rates, momenta = array("d"), array("d")
        self._states: dict[int, Mapping[str, Any]] = {}
        for epoch in range(max(epochs, *kept) + 1):
            if epoch:
                try:
                    scheduler.step()
                except ValueError:  # behind its end
                    break
            rates.extend(_rates(groups))
            momenta.extend(_momenta(groups))
            if epoch in kept:
                self._states[epoch] = _copied(scheduler.state_dict())
        self.rates, self.momenta = (
            torch.frombuffer(values, dtype=torch.float64).view(-1, len(groups))
            for values in (rates, momenta)
        )

    def changes(self) -> Tensor:
        """Return how often rate or momentum had changed up to every epoch, [epochs]."""
        both = torch.cat([self.rates, self.momenta], dim=1)
        return torch.cat([torch.zeros(1), both.diff(dim=0).any(dim=1).cumsum(0)])

    @property
    def is_possible(self) -> bool:
        """Whether every rate is finite and 0 or more, every momentum from 0 up to, without, 1."""
        rates = self.rates.isfinite() & (self.rates >= 0)
        momenta = (self.momenta >= 0) & (self.momenta < 1)
        return bool(rates.all() and momenta.all())

    def agrees(self, saved: SavedScheduler) -> bool:
        """Say whether its state, rates and momentum came out as a checkpoint has them."""
        epoch = saved.epochs
        return (
            epoch in self._states
            and _alike(saved.state, self._states[epoch])
            and _alike(_rates(saved.groups), self.rates[epoch].tolist())
            and (
                not self.moves_momentum
                or _alike(_momenta(saved.groups), self.momenta[epoch].tolist())
            )
        )


def _first_with(key: str, state: Mapping[str, Any]) -> Any:
    """Return a value of the state, or of the first of those that it is made of."""
    return state[key] if key in state else _first_with(key, state["_schedulers"][0])


def _made(state: Mapping[str, Any], optimizer: torch.optim.Optimizer) -> schedulers.LRScheduler:
    """Make a scheduler of a state's settings, at its beginning.

    Raises:
        LookupError: If no class of torch has these settings.
    """
    if "_schedulers" in state:
        parts = [_made(one, optimizer) for one in state["_schedulers"]]
        if state.keys() - _COMMON == {"_schedulers", "_milestones"}:
            return schedulers.SequentialLR(optimizer, parts, list(state["_milestones"]))
        return schedulers.ChainedScheduler(parts)
    own = frozenset(state.keys() - _COMMON - _CYCLED)
    if "_scale_fn_custom" in own:  # momentum's bounds are there only where it cycles
        own |= {"base_momentums", "max_momentums"}
    kind = _OWN[own]
    if "gamma" in state:  # a power of a whole number has no bound
        state = {**state, "gamma": float(state["gamma"])}
    scheduler = kind.__new__(kind)
    scheduler.__dict__.update(state)
    scheduler.load_state_dict(dict(state))  # CyclicLR's makes its scale function
    # The last thing that every class of torch does when it is made: the initial step.
    schedulers.LRScheduler.__init__(scheduler, optimizer)
    return scheduler


def _moves_momentum(state: Mapping[str, Any]) -> bool:
    if "_schedulers" in state:
        return any(_moves_momentum(one) for one in state["_schedulers"])
    return bool(state.get("cycle_momentum")) and not state["use_beta1"]


def _rates(groups: Sequence[Mapping[str, Any]]) -> list[float]:
    return [float(group["lr"]) for group in groups]


def _momenta(groups: Sequence[Mapping[str, Any]]) -> list[float]:
    return [float(group.get("momentum", 0.0)) for group in groups]


def _copied(state: Any) -> Any:
    if isinstance(state, Mapping) and not isinstance(state, Counter):
        return {key: _copied(value) for key, value in state.items()}
    return [_copied(one) for one in state] if isinstance(state, list | tuple) else state


def _alike(saved: Any, found: Any) -> bool:
    """Compare two states up to rounding; a fraction of an epoch is no whole one."""
    return is_within(saved, found, _alike_value)


def _alike_value(saved: Any, found: Any) -> bool:
    if isinstance(saved, float) and type(found) is int:
        return False
    if isinstance(saved, float | int | Tensor) and isinstance(found, float | int | Tensor):
        # torch's recursive forms drift by rounding where training went on in float32.
        return math.isclose(float(saved), float(found), rel_tol=1e-6, abs_tol=1e-12)
    return bool(saved == found)
