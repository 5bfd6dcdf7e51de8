"""What the stages of a run did: multiplications, seconds, and the share of the machine's rate.

Multiplications are counted by torch itself (`core.machine.multiplications`) while the first calls
of a kind run; of the calls that follow the count is theirs times their size. An example:

    with work.stage("source_scoring"):
        for block in blocks:
            with work.counted("scores", units=len(block)):
                ...
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from sourcetrace.core.machine.matmul_rate import wait_for
from sourcetrace.core.machine.multiplications import MultiplicationCounter

_MEASURED = 2
"""Calls of a kind that are counted; the first may also prepare what the others use."""


@dataclass
class StageWork:
    """What one stage did so far.

    Attributes:
        multiplications: Counted.
        seconds: Of wall clock.
    """

    multiplications: int = 0
    seconds: float = 0.0

    def share_of(self, rate: float) -> float:
        """Return the multiplications over what `rate`, per second, would have done in the time."""
        return self.multiplications / (self.seconds * rate) if self.seconds else 0.0


@dataclass
class _Kind:
    """How much one unit of a kind of call takes, as the last counted call says."""

    calls: int = 0
    each: float = 0.0


class Work:
    """Adds up what is done, by stage.

    Args:
        device: Where it is done; it is waited for before the clock is read.

    Attributes:
        stages: By name; a stage that is entered again goes on.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._kinds: dict[str, _Kind] = {}
        self._open: list[StageWork] = []
        self._counting = False
        self.stages: dict[str, StageWork] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[StageWork]:
        """Time what runs in the context, and add to the stage what is counted in it."""
        stage = self.stages.setdefault(name, StageWork())
        self._open.append(stage)
        wait_for(self._device)
        start = time.perf_counter()
        try:
            yield stage
        finally:
            wait_for(self._device)
            stage.seconds += time.perf_counter() - start
            self._open.pop()

    def count(self, multiplications: int) -> None:
        """Add to the stage that is open; outside of any it is nobody's."""
        if self._open:
            self._open[-1].multiplications += multiplications

    @contextmanager
    def counted(self, kind: str, *, units: int) -> Iterator[None]:
        """Count what runs in the context; of calls inside calls the outer one counts.

        Args:
            kind: Calls that take the same work a unit.
            units: Size of this call, such as its examples.
        """
        if self._counting or not units:
            yield
            return
        known = self._kinds.setdefault(kind, _Kind())
        self._counting = True
        try:
            if known.calls < _MEASURED:
                with MultiplicationCounter() as counter:
                    yield
                known.calls += 1
                known.each = counter.total / units
                self.count(counter.total)
            else:
                yield
                self.count(round(known.each * units))
        finally:
            self._counting = False

    @contextmanager
    def measured(self) -> Iterator[None]:
        """Count what runs in the context as it runs: calls whose size tells nothing."""
        if self._counting:
            yield
            return
        self._counting = True
        try:
            with MultiplicationCounter() as counter:
                yield
            self.count(counter.total)
        finally:
            self._counting = False

    def per_unit(self, kind: str) -> float:
        """Return the multiplications of a unit; 0 of a kind that has not run yet."""
        return self._kinds.get(kind, _Kind()).each
