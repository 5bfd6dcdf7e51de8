"""The schedules of transformers that a log of rates can be told from.

Each multiplies the base rate, rises over a warm-up and is defined by the number of steps. What
else defines it, its warm-up first, is not in a log: it is solved for, or tried. A schedule fits
where the whole log lies on it.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

_TRIED = 20_000
"""Warm-ups that are tried at most: those that ended before the first entry of a log."""
_TOLERANCES = (1e-10, 1e-6)
"""Of doubles, as a log has them, and of what went through float32; relative."""
_FEW = 8
"""Entries at either end of a log that are looked at first."""
_MET = 4
"""Entries that a schedule must meet if a number of its own was solved from one of them."""


@dataclass(frozen=True)
class _Line:
    """How far a schedule has come, arrays that broadcast.

    Attributes:
        made: Steps that were made before.
        warm_up: How many of them the warm-up takes.
        steps: Of the whole training.
        base: The rate that is multiplied.
    """

    made: Array
    warm_up: Array
    steps: int
    base: float

    @property
    def part(self) -> Array:
        """Of what comes behind the warm-up, 0 to 1."""
        behind = np.maximum(1, self.steps - self.warm_up)
        return ((self.made - self.warm_up) / behind).clip(0, 1)


@dataclass(frozen=True)
class _Shape:
    """A schedule behind its warm-up.

    Attributes:
        name: As transformers calls it.
        falls: Line, numbers of its own -> multiple of the base rate.
        numbers: Line and multiple at one entry -> what its own numbers may be, each [warm-ups, 1].
        ahead: Steps by which the schedule runs ahead of those that were made.
    """

    name: str
    falls: Callable[..., Array]
    numbers: Callable[[_Line, float], list[tuple[Any, ...]]] = lambda *_: [()]
    ahead: int = 0

    def line(self, made: Any, warm_up: Array, steps: int, base: float) -> _Line:
        """Return how far it has come."""
        return _Line(made + self.ahead, warm_up, steps, base)

    def multiples(self, line: _Line, own: tuple[Any, ...]) -> Array:
        """Return what the schedule multiplies the base rate by."""
        warming = line.made - self.ahead < line.warm_up
        rising = line.made / np.maximum(1, line.warm_up)
        return np.where(warming, rising, self.falls(line, *own))


def _cosine(line: _Line, cycles: float = 0.5, floor: Any = 0.0) -> Array:
    turned = (1 + np.cos(2 * np.pi * cycles * line.part)) / 2
    return np.asarray(np.maximum(0, turned * (1 - floor) + floor))


def _restarts(line: _Line, cycles: int) -> Array:
    turned = (1 + np.cos(np.pi * ((cycles * line.part) % 1))) / 2
    return np.where(line.part >= 1, 0.0, turned)


def _power(line: _Line, power: Any, end: float) -> Array:
    return np.asarray((1 - end) * (1 - line.part) ** power + end)


def _powers(line: _Line, value: float) -> list[tuple[Any, ...]]:
    ends = (0.0, 1e-7 / line.base)  # as transformers has it by default
    return [(np.log((value - end) / (1 - end)) / np.log(1 - line.part), end) for end in ends]


def _inverse_root(line: _Line, scale: Any) -> Array:
    return np.asarray(np.sqrt(scale / np.maximum(line.made + scale - line.warm_up, 1)))


def _scales(line: _Line, value: float) -> list[tuple[Any, ...]]:
    solved = (line.made - line.warm_up) * value**2 / (1 - value**2)
    return [(np.where(line.warm_up, line.warm_up, 10_000),), (np.round(solved),)]


def _floors(line: _Line, value: float) -> list[tuple[Any, ...]]:
    turned = _cosine(line)
    floor = (value - turned) / (1 - turned)
    return [(0.5, np.where(floor < 1 - _TOLERANCES[-1], floor, np.nan))]


_DECAYS: Mapping[str, tuple[Callable[[Any], Any], Callable[[Any], Any]]] = {
    "linear": (lambda part: 1 - part, lambda value: 1 - value),
    "cosine": (lambda part: (1 + np.cos(np.pi * part)) / 2, lambda v: np.arccos(2 * v - 1) / np.pi),
    "1-sqrt": (lambda part: 1 - np.sqrt(part), lambda value: (1 - value) ** 2),
}
"""What `warmup_stable_decay` falls by -> the share of the decay it has come, and that back."""


def _stable(line: _Line, decay: str, length: Any) -> Array:
    part = (line.made - (line.steps - length)) / np.maximum(1, length)
    return np.asarray(_DECAYS[decay][0](part.clip(0, 1)))


def _lengths(line: _Line, value: float) -> list[tuple[Any, ...]]:
    left = line.steps - line.made
    return [(decay, np.round(left / (1 - back(value)))) for decay, (_, back) in _DECAYS.items()]


_PLAIN = (
    _Shape("constant", lambda line: np.ones_like(line.part)),
    _Shape("linear", lambda line: 1 - line.part),
    _Shape("cosine", _cosine, lambda *_: [(0.5,), (1.0,), (1.5,), (2.0,)]),
    _Shape("cosine_with_restarts", _restarts, lambda *_: [(count,) for count in range(2, 11)]),
)
_SOLVED = (
    _Shape("polynomial", _power, _powers),
    _Shape("inverse_sqrt", _inverse_root, _scales),
    _Shape("cosine_with_min_lr", _cosine, _floors),
    _Shape("cosine_warmup_with_min_lr", _cosine, _floors, ahead=1),
    _Shape("warmup_stable_decay", _stable, _lengths),
)
"""Those with a number of their own, which one entry gives: looked at where no plain one fits."""


def fitting(points: Mapping[int, float], *, steps: int, base: float) -> Iterator["_Followed"]:
    """Yield every schedule on which all entries of a log lie.

    Args:
        points: Steps that were made before -> rate.
        steps: Of the whole training.
        base: The rate that the schedule multiplies.

    Yields:
        Functions with a name: steps that were made before -> rates.
    """
    made = np.array(sorted(points), dtype=float)
    values = np.array([points[int(one)] for one in made]) / base
    warm_ups = _warm_ups(made, values, steps)[:, None]
    probe = _probe(values)
    few = np.r_[: min(_FEW, len(made)), max(_FEW, len(made) - _FEW) : len(made)]
    for tolerance, shapes in product(_TOLERANCES, (_PLAIN, _SOLVED)):
        found = False
        for shape in shapes if shapes is _PLAIN or len(made) >= _MET else ():
            at_few = shape.line(made[few], warm_ups, steps, base)
            with np.errstate(all="ignore"):  # what cannot be solved fits nowhere
                every = shape.numbers(shape.line(made[probe], warm_ups, steps, base), values[probe])
            for own in every:
                for row in _rows(shape, at_few, own, values[few], tolerance):
                    follows = _Followed(shape, warm_ups[row, 0], steps, base, _of_row(own, row))
                    if np.allclose(follows(made), base * values, rtol=tolerance, atol=base * 1e-12):
                        found = True
                        yield follows
        if found:
            return


@dataclass(frozen=True)
class _Followed:
    """A schedule with all its numbers."""

    shape: _Shape
    warm_up: Any
    steps: int
    base: float
    own: tuple[Any, ...]

    @property
    def name(self) -> str:
        """As transformers calls it."""
        return self.shape.name

    def __call__(self, made: Array) -> Array:
        """Return the rates after so many steps."""
        line = self.shape.line(made, self.warm_up, self.steps, self.base)
        with np.errstate(all="ignore"):
            return self.base * self.shape.multiples(line, self.own)


def _rows(
    shape: _Shape, line: _Line, own: tuple[Any, ...], values: Array, tolerance: float
) -> NDArray[np.intp]:
    """Return the warm-ups, by their places, with which these entries lie on the schedule."""
    with np.errstate(all="ignore"):
        expected = shape.multiples(line, own)
    return np.flatnonzero(np.isclose(expected, values, rtol=tolerance, atol=1e-12).all(axis=1))


def _of_row(own: tuple[Any, ...], row: int) -> tuple[Any, ...]:
    return tuple(one[row, 0] if isinstance(one, np.ndarray) else one for one in own)


def _probe(values: Array) -> int:
    """Return the place of an entry behind the warm-up from which a number is well solved."""
    behind = np.arange(len(values)) > int(np.argmax(values))
    far = np.where(behind & (values > 0), abs(values - 0.5), np.inf)
    return int(np.argmin(far)) if np.isfinite(far).any() else len(values) - 1


def _warm_ups(made: Array, values: Array, steps: int) -> Array:
    """Return the warm-ups that may be: what an entry in it says, or any before the first entry."""
    some = values > 0
    rising = [np.round((made[some] + ahead) / values[some]) for ahead in (0, 1)]
    tried = np.arange(min(made.min(), _TRIED) + 1)
    every = np.unique(np.concatenate([*rising, tried]))
    return every[(every >= 0) & (every < steps)]
