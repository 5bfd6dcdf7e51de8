"""Whose optimiser a state dict is."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from sourcetrace.checkpoints.nested import ODD
from sourcetrace.checkpoints.training.optimizers import OPTIMIZERS, KnownOptimizer
from sourcetrace.core.training.segments import MOST_STEPS
from sourcetrace.errors import InputError

_SUPPORTED = (
    "Supported are torch's SGD with heavy-ball or Nesterov momentum, Adam, AdamW, NAdam, RAdam, "
    "Adamax, RMSprop, Adagrad, Adadelta and Adafactor, transformers' AdamW and Adafactor, and "
    "bitsandbytes' Adam and AdamW; Lion and Muon as an approximation that checkpoints.accept "
    "names. "
    "To audit what another trained: save the weights alone, set checkpoints.optimizer to "
    "{name: SGD, learning_rate: …}, and attribution.method to one that does not follow the "
    "optimiser, such as influence."
)


@dataclass(frozen=True)
class OptimizerState:
    """The state dict of an optimiser.

    Attributes:
        known: Whose it is.
        groups: Its `param_groups`, each with a rate.
        entries: Place -> the state of the parameter there.
        own_rates: Of every step, [steps, groups], where the optimiser set them itself.
    """

    known: KnownOptimizer
    groups: Sequence[Mapping[str, Any]]
    entries: Mapping[int, Mapping[str, Any]]
    own_rates: Tensor | None

    @classmethod
    def of(cls, file: Path, state: Any) -> Self:
        """Take a state dict apart.

        Raises:
            InputError: If it is no optimiser's, or none of a known one.
        """
        groups = state.get("param_groups") if isinstance(state, Mapping) else None
        if not isinstance(groups, list) or not all(
            isinstance(one, Mapping) for one in groups or [0]
        ):
            raise InputError(
                f"{file.name}: optimizer_state_dict has no param_groups. Save "
                "optimizer.state_dict() as it is."
            )
        entries = {
            int(place): entry
            for place, entry in dict(state.get("state") or {}).items()
            if isinstance(entry, Mapping)
        }
        known = _recognised(file, groups, list(entries.values()))
        return cls(known, groups, entries, None).with_rates()

    @property
    def steps(self) -> int:
        """How many steps it has made; 0 where it counts none, or something else."""
        counts = [one["step"] for one in self.entries.values() if one.get("step") is not None]
        try:
            return max(map(int, counts), default=0)
        except ODD:
            return 0

    def with_rates(self) -> Self:
        """Return it with the rates of all steps, where the optimiser sets them itself."""
        rates_of = self.known.own_rates
        if (
            rates_of is None
            or not 0 < self.steps <= MOST_STEPS
            or any(one["lr"] is not None for one in self.groups)
        ):
            return self
        rates = torch.stack([rates_of(one, self.steps) for one in self.groups], dim=1)
        last = zip(self.groups, rates[-1].tolist(), strict=True)
        return replace(self, groups=[{**one, "lr": rate} for one, rate in last], own_rates=rates)


def _recognised(
    file: Path, groups: Sequence[Mapping[str, Any]], entries: Sequence[Mapping[str, Any]]
) -> KnownOptimizer:
    """Return the optimiser of these groups and parameters' states.

    Raises:
        InputError: If it is none of the known ones.
    """
    similar = [one for one in OPTIMIZERS if all(group.keys() >= one.settings for group in groups)]
    if not similar:
        raise InputError(
            f"{file.name}: the optimiser is not a supported one (its settings: "
            f"{', '.join(key for key in groups[0] if key != 'params')}). {_SUPPORTED}"
        )
    foreign = [one.foreign(groups) for one in similar]
    fitting = [
        one
        for one, others in zip(similar, foreign, strict=True)
        if not others and one.fits(entries)
    ]
    if fitting:
        return _like(file, fitting[0], groups)
    fewest = min(foreign, key=len)
    if fewest:
        raise InputError(
            f"{file.name}: the optimiser has settings that torch's own does not have: "
            f"{', '.join(sorted(map(str, fewest)))}. {_SUPPORTED} If it is one of these and they "
            "change no step, remove them from param_groups."
        )
    found = sorted({str(key) for one in entries for key in one})
    raise InputError(
        f"{file.name}: the optimiser's settings are those of "
        f"{' or '.join(one.name for one in similar)}, but its state has {', '.join(found)}. "
        f"{_SUPPORTED}"
    )


def _like(file: Path, known: KnownOptimizer, groups: Sequence[Mapping[str, Any]]) -> KnownOptimizer:
    if any(group.get("maximize") for group in groups):
        raise InputError(
            f"{file.name}: the optimiser was used with maximize=True, which is not supported. "
            "Let it minimise the negative instead."
        )
    for other, is_it in known.unlike.items():
        if any(is_it(group) for group in groups):
            raise InputError(f"{file.name}: the optimiser is {other}. {_SUPPORTED}")
    return known
