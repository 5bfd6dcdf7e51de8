"""Learning rates that a training logged now and then, and the schedule that they lie on.

Known are the schedules of transformers that a warm-up and the number of steps define: constant,
linear and cosine. The warm-up's length is not in the log; it is found from the rates.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch

from sourcetrace.core.training.schedules import KnownRates, RateSource

_SHAPES = ("constant", "linear", "cosine")
_LOOKED_AT = 8
"""Entries at either end of the log that the warm-up is worked out from; all must then fit."""


@dataclass(frozen=True)
class LoggedRates:
    """A log of the first parameter group's rate.

    Attributes:
        rates: Step, the first of the training being 1 -> rate. Older versions of transformers
            log the rate of the step after.
        steps: Planned for the whole training.
    """

    rates: Mapping[int, float]
    steps: int

    def known(
        self, first: int, last: int, *, following: float, base: float | None, origin: str
    ) -> KnownRates:
        """Return the rates of steps `first` to `last`, those of a line where no schedule fits.

        Args:
            first: The first step.
            last: The last step, included.
            following: The rate after the last step, as the optimiser's state has it.
            base: The rate that the schedule multiplies, if known.
            origin: What to call them in an error.
        """
        wanted = np.arange(first, last + 1)
        found = list(self._fitting(last, following, base)) if base else []
        tables = [base * _multiples(*one, self.steps, wanted - 1) for one in found if base]
        source: RateSource = "reconstructed"
        if tables and all(np.allclose(tables[0], other, rtol=1e-9, atol=0.0) for other in tables):
            rates = tables[0]
        else:
            late = int(self.rates.get(last) == following)
            points = {step + late: rate for step, rate in self.rates.items() if step <= last}
            points[last + 1] = following
            at = sorted(points)
            rates = np.interp(wanted, at, [points[step] for step in at])
            if points.keys() >= set(wanted.tolist()):
                source = "recorded"
            else:
                source = "constant" if len(set(points.values())) == 1 else "interpolated"
        return KnownRates(first, torch.from_numpy(rates).unsqueeze(1), source, origin)

    def _fitting(self, last: int, following: float, base: float) -> Iterator[tuple[str, int]]:
        """Yield shape and warm-up of every schedule on which the whole log lies."""
        for late in (0, 1):
            # Steps that were made before -> what the base is multiplied by.
            points = {step - 1 + late: rate / base for step, rate in self.rates.items()}
            points[last] = following / base
            at = np.array(list(points))
            values = np.array(list(points.values()))
            for shape in _SHAPES:
                for warm_up in self._warm_ups(shape, points):
                    expected = _multiples(shape, warm_up, self.steps, at)
                    if np.allclose(expected, values, rtol=1e-6, atol=1e-9):
                        yield shape, warm_up

    def _warm_ups(self, shape: str, points: Mapping[int, float]) -> set[int]:
        found = {0.0}
        every = list(points.items())
        for made, value in {*every[:_LOOKED_AT], *every[-_LOOKED_AT:]}:
            if value > 0:
                found.add(made / value)
                if shape == "linear":
                    found.add(self.steps - (self.steps - made) / value)
            if shape == "cosine" and 0 < value <= 1:
                part = math.acos(2 * value - 1) / math.pi
                found.add((made - part * self.steps) / (1 - part))
        return {round(one) for one in found if -0.5 < one < self.steps}  # noqa: PLR2004


def _multiples(shape: str, warm_up: int, steps: int, made: np.ndarray) -> np.ndarray:
    """Return what a schedule multiplies the base rate by after so many steps."""
    part = ((made - warm_up) / max(1, steps - warm_up)).clip(0, 1)
    falling = {
        "constant": np.ones_like(part),
        "linear": 1 - part,
        "cosine": (1 + np.cos(np.pi * part)) / 2,
    }[shape]
    return np.where(made < warm_up, made / max(1, warm_up), falling)
