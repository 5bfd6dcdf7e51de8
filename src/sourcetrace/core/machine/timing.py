"""Seconds of a stage, and the rate at which this process multiplies matrices."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import torch

from sourcetrace.core.machine.products import multiplied

_SIZE = 1024
_LARGEST = 8192
"""On a GPU the size is doubled up to here, until a product takes long enough to be measured."""

_LONG_ENOUGH = 0.05
"""Seconds."""

_PRODUCTS = 5


@cache
def matmul_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Return multiplications per second, the best of a few square products after one to warm up.

    It is measured once a process; threads and precision are those that are set then.

    Args:
        device: Of the product.
        dtype: Of its factors.
    """
    size = _SIZE
    while (
        device.type == "cuda" and size < _LARGEST and _seconds(size, device, dtype) < _LONG_ENOUGH
    ):
        size *= 2
    return float(size**3) / _seconds(size, device, dtype)


class Timings:
    """Adds up the seconds of wall clock of what runs, by name.

    Args:
        device: Where it runs; it is waited for before the clock is read.

    Attributes:
        seconds: By name; what is timed again goes on.
        expected: What was said of them beforehand, by name; empty where nothing was.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.seconds: dict[str, float] = {}
        self.expected: dict[str, float] = {}

    @property
    def left(self) -> float:
        """What is expected of all that was not timed yet, as what was timed has kept to it."""
        done = [name for name in self.expected if name in self.seconds]
        said = sum(self.expected[name] for name in done)
        late = sum(self.seconds[name] for name in done) / said if said else 1.0
        return late * (sum(self.expected.values()) - said)

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Time what runs in the context."""
        _wait_for(self._device)
        start = time.perf_counter()
        try:
            yield
        finally:
            _wait_for(self._device)
            spent = time.perf_counter() - start
            self.seconds[name] = self.seconds.get(name, 0.0) + spent


def _wait_for(device: torch.device) -> None:
    """Wait until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _seconds(size: int, device: torch.device, dtype: torch.dtype) -> float:
    """Return the seconds of the fastest product."""
    # Not random: the global generator is left alone. Not 0, nor so small as to be denormal.
    factor = torch.linspace(0.5, 1.5, size * size, device=device, dtype=dtype).reshape(size, size)
    multiplied(factor, factor)
    watch = Timings(device)
    for number in range(_PRODUCTS):
        with watch.timed(str(number)):
            multiplied(factor, factor)
    return min(watch.seconds.values())
