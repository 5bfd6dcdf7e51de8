"""Wall seconds, CPU seconds and peak memory of the stages of a process.

The standard library alone: a peer's interpreter imports it too.
"""

import json
import resource
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

STAGES = ("covariances", "eigendecomposition", "corrected eigenvalues", "pairwise scores")
"""What every package is split into; the first three are the fit."""


@dataclass(frozen=True)
class Cost:
    """What a stage took.

    Attributes:
        wall: Seconds.
        cpu: Seconds of all threads.
        peak_bytes: Largest resident memory while it ran, the interpreter and the data included.
    """

    wall: float
    cpu: float
    peak_bytes: int

    def __add__(self, other: "Cost") -> "Cost":
        """Return the cost of one after the other."""
        peak = max(self.peak_bytes, other.peak_bytes)
        return Cost(self.wall + other.wall, self.cpu + other.cpu, peak)


@dataclass(frozen=True)
class Measurement:
    """One process.

    Attributes:
        costs: Stage -> what it took.
        facts: Numbers worth printing, such as passes through the model.
    """

    costs: Mapping[str, Cost]
    facts: Mapping[str, float]

    def write(self, file: Path) -> None:
        """Write JSON."""
        file.write_text(json.dumps(asdict(self)))

    @classmethod
    def read(cls, file: Path) -> "Measurement":
        """Read what `write` wrote."""
        content = json.loads(file.read_text())
        costs = {stage: Cost(**cost) for stage, cost in content["costs"].items()}
        return cls(costs, content["facts"])

    def total(self, stages: Iterable[str]) -> Cost:
        """Return what some stages took together; absent ones are a KeyError."""
        return sum((self.costs[stage] for stage in stages), Cost(0.0, 0.0, 0))


class Stopwatch:
    """Times stages that follow one another; a name that comes again adds to its stage."""

    def __init__(self) -> None:
        self.costs: dict[str, Cost] = {}
        self._running: tuple[str, float, float] | None = None

    def start(self, stage: str) -> None:
        """End the running stage, if there is one, and start another."""
        self.stop()
        _forget_peak()
        self._running = (stage, time.perf_counter(), time.process_time())

    def stop(self) -> None:
        """End the running stage."""
        if self._running is None:
            return
        stage, wall, cpu = self._running
        self._running = None
        cost = Cost(time.perf_counter() - wall, time.process_time() - cpu, peak_bytes())
        self.costs[stage] = self.costs.get(stage, Cost(0.0, 0.0, 0)) + cost


def peak_bytes() -> int:
    """Return the largest resident memory of this process since `_forget_peak`, if that worked.

    Not `getrusage` where it can be helped: its peak begins with that of the process that started
    this one.
    """
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _forget_peak() -> None:
    """Let the peak begin at what is resident now, where Linux allows it."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        # The peak is then that of all stages so far: too large, never too small.
        return
