"""How long a night of a thousand processes is, with failures, over the real ledger.

    python -m benchmarks.night [--ranks 1000] [--hours 6] [--folder DIR]
    python -m benchmarks.night --ledger 100000 1000000

The clock and the work are made up, everything else is the code that audits run: shares, the order
in which a process takes units, and a ledger in a temporary folder in which every finished unit is a
real folder with an empty file and a line in its process's own log. Processes are killed at random
times (exponential, `--failure-hours` a process), and come back after `--back-seconds`, or never if
that is negative; a unit belongs to who holds its lock until that process ends. All are ended
together every `--limit-hours`, as a batch system ends a job, and begin again behind its queue.
Processes are not equally fast: lognormal, and a share of them is `SLOWER` times slower.

Ideal is the sum of the units over the sum of the speeds: nothing fails, nothing waits. *Lost* is
the work of units that were not finished, *waiting* the time of living processes without a unit,
both in shares of what all processes had; *twice* are units with more than one line. Where locks do
not work (`--without-locks`), whoever comes to an unfinished unit does it.

`--ledger` measures the ledger's own CPU seconds: logs of as many processes, lines of so many
units, and, up to `--real-up-to` units, their folders. What has no folder is looked for as well.
"""

import argparse
import heapq
import math
import random
import sys
import tempfile
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

# Run as a file, Python looks for modules beside it and not in the repository's root.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.measurement import peak_bytes

from sourcetrace.files import digest_of
from sourcetrace.work.ledger import Ledger
from sourcetrace.work.team import in_order, shares
from sourcetrace.work.unit import Unit

SLOWER = 3.0
HOUR = 3600.0


@dataclass(frozen=True)
class Night:
    """What happens in a night; the command's options.

    Attributes:
        ranks: Processes.
        hours: Of work for each process, if they were equal.
        phases: Each waits for the one before.
        unit_seconds: Of a process of mean speed.
        failure_hours: Mean time between failures of a process; infinite: none.
        back_seconds: From a kill to the process's next unit; negative: it stays away until the
            job is started again.
        start_seconds: Before the first unit: imports, model, logs.
        limit_hours: After which all processes are ended.
        queue_seconds: From there to the next start.
        look_seconds: After which a process without a unit sees that another's is free, or that the
            phase is over.
        spread: Of the speeds' logarithm.
        slow: Share of processes that are slow.
        locks: Whether the file system has them.
        seed: Of all that is drawn.
    """

    ranks: int = 1000
    hours: float = 6.0
    phases: int = 8
    unit_seconds: float = 600.0
    failure_hours: float = math.inf
    back_seconds: float = 120.0
    start_seconds: float = 60.0
    limit_hours: float = math.inf
    queue_seconds: float = 600.0
    look_seconds: float = 20.0
    spread: float = 0.1
    slow: float = 0.0
    locks: bool = True
    seed: int = 0

    @property
    def units(self) -> int:
        """Of a phase."""
        return round(self.ranks * self.hours * HOUR / self.unit_seconds / self.phases)


_SLOW: Mapping[str, Any] = {"slow": 0.02}
_FAILING = {**_SLOW, "failure_hours": 100.0}
SCENARIOS: Mapping[str, Mapping[str, Any]] = {
    "equal, nothing fails": {"spread": 0.0},
    "uneven": {},
    "2 % slow": _SLOW,
    "2 % slow, units of 1,800 s": {**_SLOW, "unit_seconds": 1800.0},
    "2 % slow, units of 200 s": {**_SLOW, "unit_seconds": 200.0},
    "a failure in 1,000 h": {**_SLOW, "failure_hours": 1000.0},
    "a failure in 100 h": _FAILING,
    "and nobody comes back": {**_FAILING, "back_seconds": -1.0},
    "and a limit of 2 h": {**_FAILING, "limit_hours": 2.0},
    "and no locks": {**_FAILING, "limit_hours": 2.0, "locks": False},
}


@dataclass
class _Process:
    """A rank's process of the moment."""

    ledger: Ledger
    number: int
    since: float
    order: Iterator[int]
    unit: int | None = None


@dataclass
class Simulation:
    """A night over a ledger.

    Attributes:
        night: What happens.
        root: The ledger's folder.
        now: Seconds since the start.
        count: Of kills, starts of the job and finished units.
        lost: Seconds of work that were not finished.
        waited: Seconds of living processes without a unit.
        read: CPU seconds in which a new process read all logs.
    """

    night: Night
    root: Path
    now: float = 0.0
    count: Counter[str] = field(default_factory=Counter)
    lost: float = 0.0
    waited: float = 0.0
    read: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._random = random.Random(self.night.seed)  # noqa: S311, no secret
        ranks = range(self.night.ranks)
        self.speeds = [self._random.lognormvariate(0, self.night.spread) for _ in ranks]
        for rank in self._random.sample(ranks, round(self.night.slow * len(ranks))):
            self.speeds[rank] /= SLOWER
        self._events: list[tuple[float, int, str, int, int]] = []
        self._living: dict[int, _Process] = {}
        self._idle: dict[int, float] = {}
        self._units: Sequence[Unit] = []
        self._parts: Sequence[Sequence[int]] = [()] * self.night.ranks
        # Numbers of a phase's units that are not done, with how many processes are at each.
        self._left: dict[int, int] = {}
        self._free: deque[int] = deque()

    @property
    def ideal(self) -> float:
        """Seconds of a night in which nothing fails and nobody waits."""
        night = self.night
        return night.phases * night.units * night.unit_seconds / sum(self.speeds)

    def run(self) -> None:
        """Let the night pass; all units are then done in the ledger."""
        self._start_job()
        for phase in range(self.night.phases):
            self._units = [
                Unit(f"phase_{phase}", f"{place:09d}", {"place": str(place)})
                for place in range(self.night.units)
            ]
            self._parts = [
                [int(one.name) for one in part] for part in shares(self._units, self.night.ranks)
            ]
            self._left = dict.fromkeys(range(self.night.units), 0)
            self._free.clear()
            for rank, process in list(self._living.items()):
                process.order = in_order(self._parts, rank)
                self._at(max(process.since, self.now + self.night.look_seconds), "look", rank)
            while self._left:
                self.now, _, kind, rank, number = heapq.heappop(self._events)
                # What was planned for a process that is gone does not happen.
                if number == (self._living[rank].number if rank in self._living else 0):
                    getattr(self, f"_{kind}")(rank)
        for rank in list(self._living):
            self._end(rank)

    def check(self) -> Counter[str]:
        """Return how many units are done, lines were written, and bytes; as a new process reads."""
        ledger = Ledger(self.root)
        logs = list((self.root / "log").iterdir())
        lines = sum(log.read_bytes().count(b"\n") for log in logs)
        done = len(set(ledger.refresh()))
        return Counter(
            done=done, lines=lines, logs=len(logs), bytes=sum(log.stat().st_size for log in logs)
        )

    def _at(self, when: float, kind: str, rank: int) -> None:
        number = self._living[rank].number if rank in self._living else 0
        self.count["events"] += 1
        heapq.heappush(self._events, (when, self.count["events"], kind, rank, number))

    def _start_job(self) -> None:
        self.count["starts"] += 1
        self.read.append(_seconds(Ledger(self.root).refresh))
        for rank in range(self.night.ranks):
            self._back(rank)
        self._at(self.now + self.night.limit_hours * HOUR, "limit", -1)

    def _back(self, rank: int) -> None:
        self.count["processes"] += 1
        self._living[rank] = _Process(
            Ledger(self.root),
            self.count["processes"],
            self.now + self.night.start_seconds,
            in_order(self._parts, rank),
        )
        self._at(self.now + self.night.start_seconds, "look", rank)
        if math.isfinite(self.night.failure_hours):
            after = self._random.expovariate(1 / (HOUR * self.night.failure_hours))
            self._at(self.now + after, "kill", rank)

    def _look(self, rank: int) -> None:
        """Take the next unit, or wait."""
        process = self._living[rank]
        if process.unit is not None:
            return
        unit = self._next(process)
        if unit is None:
            self._idle.setdefault(rank, self.now)
            return
        self.waited += self.now - self._idle.pop(rank, self.now)
        self._left[unit] += 1
        process.unit, process.since = unit, self.now
        self._at(self.now + self.night.unit_seconds / self.speeds[rank], "done", rank)

    def _next(self, process: _Process) -> int | None:
        for unit in process.order:
            if unit in self._left and not (self._left[unit] and self.night.locks):
                return unit
        while self._free:
            unit = self._free.popleft()
            if self._left.get(unit) == 0:
                return unit
        return None

    def _done(self, rank: int) -> None:
        process = self._living[rank]
        unit = process.unit
        assert unit is not None  # noqa: S101
        process.ledger.write(self._units[unit], _nothing)
        self._left.pop(unit, None)
        process.unit = None
        self._look(rank)

    def _kill(self, rank: int) -> None:
        self.count["kills"] += 1
        self._end(rank)
        if self.night.back_seconds >= 0:
            self._at(self.now + self.night.back_seconds, "back", rank)

    def _limit(self, _: int) -> None:
        for rank in list(self._living):
            self._end(rank)
        self._events.clear()
        self._free.clear()
        self.now += self.night.queue_seconds
        self._start_job()

    def _end(self, rank: int) -> None:
        """End a process, and let its unit go."""
        process = self._living.pop(rank)
        self.waited += self.now - self._idle.pop(rank, self.now)
        if process.unit is not None:
            self.lost += self.now - process.since
            if process.unit in self._left:
                self._left[process.unit] -= 1
                self._free.append(process.unit)
        for waiting in list(self._idle)[: len(self._free)]:
            self._at(self.now + self.night.look_seconds, "look", waiting)


def _nothing(unit: Unit, folder: Path) -> None:
    (folder / "nothing").touch()


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a table of nights, or of what the ledger takes."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for option in fields(Night):
        if option.name != "locks":
            name = f"--{option.name.replace('_', '-')}"
            parser.add_argument(name, type=type(option.default), help=f"{option.default}")
    parser.add_argument("--without-locks", dest="locks", action="store_const", const=False)
    parser.add_argument("--only", nargs="+", choices=SCENARIOS, default=list(SCENARIOS))
    parser.add_argument("--ledger", type=int, nargs="+", help="numbers of units")
    parser.add_argument("--real-up-to", type=int, default=100_000)
    parser.add_argument("--folder", type=Path, help="in which ledgers are made; temporary files'")
    given = parser.parse_args(arguments)
    set_here = {
        option.name: getattr(given, option.name)
        for option in fields(Night)
        if getattr(given, option.name) is not None
    }
    if given.ledger:
        for count in given.ledger:
            ranks = set_here.get("ranks", Night.ranks)
            print(_ledger_seconds(count, ranks, given.folder, real=count <= given.real_up_to))
        return
    print("| | night, h | ideal, h | ratio | lost, % | waiting, % | twice | kills | starts "
          "| log, MB in files | read by a new process, CPU s |")  # fmt: skip
    print("|" + " --- |" * 11)
    for name in given.only:
        print(f"| {name} | {_night(Night(**{**SCENARIOS[name], **set_here}), given.folder)} |")


def _night(night: Night, folder: Path | None) -> str:
    with tempfile.TemporaryDirectory(dir=folder) as name:
        simulation = Simulation(night, Path(name))
        simulation.run()
        found = simulation.check()
    if found["done"] != night.phases * night.units:
        raise RuntimeError(f"{night}: {found} are done")
    hours, ideal = simulation.now / HOUR, simulation.ideal / HOUR
    whole = night.ranks * simulation.now / 100
    cells = [
        f"{hours:.2f}",
        f"{ideal:.2f}",
        f"{hours / ideal:.2f}",
        f"{simulation.lost / whole:.2f}",
        f"{simulation.waited / whole:.2f}",
        f"{found['lines'] - found['done']} of {found['done']}",
        str(simulation.count["kills"]),
        str(simulation.count["starts"]),
        f"{found['bytes'] / 1e6:.1f} in {found['logs']}",
        f"{simulation.read[-1]:.2f}",
    ]
    return " | ".join(cells)


def _ledger_seconds(count: int, ranks: int, folder: Path | None, *, real: bool) -> str:
    """Return what the ledger takes for so many units, a line each."""
    same = {name: digest_of(name) for name in ("code", "task", "layers", "seed", "precision")}
    units = [
        Unit(
            "gradient_extraction", f"step_000120/g0/{place:09d}", {**same, "rows": digest_of(place)}
        )
        for place in range(count)
    ]
    with tempfile.TemporaryDirectory(dir=folder) as name:
        root = Path(name)
        writing = _seconds(lambda: _write(root, shares(units, ranks), real=real))
        ledger, before = Ledger(root), peak_bytes()
        reading = _seconds(ledger.refresh)
        memory = peak_bytes() - before
        steps: Mapping[str, Callable[[], Any]] = {
            "look for new lines": ledger.refresh,
            "states of all": lambda: ledger.states(units),
            "logged of all": lambda: [ledger.is_logged(one) for one in units],
            "order of a process": lambda: list(in_order(shares(units, ranks), 0)),
            "join the logs": ledger.tidy,
        }
        seconds = {"write all": writing, "read all": reading} | {
            step: _seconds(do) for step, do in steps.items()
        }
        size = sum(log.stat().st_size for log in (root / "log").iterdir())
    found = ", ".join(f"{step} {taken:.3f} s" for step, taken in seconds.items())
    return (
        f"{count} units in {ranks} logs of {size / 1e6:.0f} MB, with"
        f"{'' if real else 'out'} folders: {found}; {memory / 1e6:.0f} MB of memory"
    )


def _seconds(do: Callable[[], Any]) -> float:
    start = time.process_time()
    do()
    return time.process_time() - start


def _write(root: Path, parts: Sequence[Sequence[Unit]], *, real: bool) -> None:
    for part in parts:
        ledger = Ledger(root)
        for unit in part:
            if real:
                ledger.write(unit, _nothing)
            else:
                # A folder takes a disk a millisecond, and longer to remove.
                ledger._say(unit, files={"nothing": (0, "0" * 64)}, facts={"seconds": 30.0})


if __name__ == "__main__":
    main()
