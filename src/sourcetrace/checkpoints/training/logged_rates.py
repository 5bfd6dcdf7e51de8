"""Learning rates that a training logged now and then, and the schedule that they lie on."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch

from sourcetrace.checkpoints.training.logged_schedules import fitting
from sourcetrace.core.training.schedules import KnownRates, RateSource

_AGREEING = 1e-5
"""Schedules whose rates differ by less, relative, are one."""


@dataclass(frozen=True)
class LoggedRates:
    """A log of the first parameter group's rate.

    Attributes:
        rates: Step, the first of the training being 1 -> rate. Older versions of transformers
            log the rate of the step after.
        steps: Planned for the whole training.
        constant: Whether the saved scheduler has no warm-up and no other change.
    """

    rates: Mapping[int, float]
    steps: int
    constant: bool = False

    def known(
        self, first: int, last: int, *, following: float, base: float | None, origin: str
    ) -> KnownRates:
        """Return the rates of steps `first` to `last`, those of a line where no schedule fits.

        Args:
            first: The first step.
            last: The last step, included.
            following: The rate after the last step, as the optimiser's state has it.
            base: The rate that the schedule multiplies, if known.
            origin: Of the log, in words.
        """
        wanted = np.arange(first, last + 1)
        fitted = self._fitted(wanted, last, following, base) if base else None
        source: RateSource = "reconstructed"
        if fitted is not None:
            rates, name = fitted
            origin = f"{origin}, on transformers' {name} schedule"
        else:
            late = int(self.rates.get(last) == following)
            points = {step + late: rate for step, rate in self.rates.items() if step <= last}
            points[last + 1] = following
            at = sorted(points)
            rates = np.interp(wanted, at, [points[step] for step in at])
            if points.keys() >= set(wanted.tolist()):
                source = "recorded"
            else:
                # A scheduler may have warmed up before the first entry.
                warmed = base is not None and not self.constant and first < at[0]
                is_flat = len(set(points.values())) == 1 and not warmed
                source = "constant" if is_flat else "interpolated"
        return KnownRates(first, torch.from_numpy(rates).unsqueeze(1), source, origin)

    def _fitted(
        self, wanted: np.ndarray, last: int, following: float, base: float
    ) -> tuple[np.ndarray, str] | None:
        """Return the rates on which all schedules agree that the whole log lies on, and a name."""
        found: tuple[np.ndarray, str] | None = None
        for late in (0, 1):
            points = {
                step - 1 + late: rate for step, rate in self.rates.items() if step <= last
            } | {last: following}
            for schedule in fitting(points, steps=self.steps, base=base):
                rates = schedule(wanted - 1.0)
                if found is None:
                    found = rates, schedule.name
                elif not np.allclose(found[0], rates, rtol=_AGREEING, atol=_AGREEING * base):
                    return None
        return found
