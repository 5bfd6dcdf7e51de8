"""The processes that work on an audit together, one or many: each takes units until all are done.

They meet in the ledger alone. Every process has a share of a phase's units and takes others' when
its own is done; first of all those of ranges of which it has done something, and may have kept
gradients. A unit that somebody works on is locked by the operating system, whose lock ends
with its holder. So a process that dies loses the unit it was at, and no message is waited for.
Every process computes the same bytes, so that their number is in no result.
"""

import faulthandler
import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, islice
from pathlib import Path
from typing import Any, TypeVar

from filelock import FileLock, Timeout

from sourcetrace.errors import InputError, OtherDataError
from sourcetrace.progress import track
from sourcetrace.work.ledger import Ledger
from sourcetrace.work.phases import Phase, Phases
from sourcetrace.work.unit import CorruptUnitError, OtherUnitsError, Unit

logger = logging.getLogger(__name__)

Do = Callable[[Unit, Path], Mapping[str, Any] | None]
"""Writes a unit's files into a folder, and returns what is said of it beside."""

_Result = TypeVar("_Result")
_One = TypeVar("_One")

_POLL_SECONDS = 0.2
_RARER = 20
"""Times what asking the file system took is not asked again: it has a thousand processes to serve,
and may be far away."""

_ASKED = 16
"""Units of others that a process without one asks for between two looks into the logs."""

_TRIES = 3
_SLOWER = 20
"""Times what the longest unit took is no slowness any more, but a hanging process."""

_HANGS = (
    "%s/%s takes longer than %.0f s, which is launch.timeout_seconds or 20 times what the slowest "
    "unit took. The process ends itself, here:"
)
_SECONDS_TO_SAY = 0.5
"""Python's to say so, if it is not what hangs."""


@dataclass
class Team:
    """One of the processes that work on an audit.

    Attributes:
        ledger: Which all of them share.
        rank: The process's number, from 0; that of the one that talks to Kedro and MLflow.
        size: How many there are.
        timeout: Seconds after which a process that is at one unit ends itself, its stack on
            standard error; longer where units take long. A process alone has all the time.
        call: Has the other processes do a stage, too.
        parts_for: Returns what the audit is made of, as far as a stage goes: part -> digest.
        check: Raises `OtherUnitsError` where what is to be done has changed; asked whenever others'
            logs are read, so that nobody waits for units that nobody does.
        kept_audits: How many have their units kept, the one at hand among them.
    """

    ledger: Ledger
    rank: int = 0
    size: int = 1
    timeout: float = 1800.0
    call: Callable[[str], None] = lambda _: None
    parts_for: Callable[[str], Mapping[str, str]] = lambda _: {}
    check: Callable[[], None] = lambda: None
    kept_audits: int = 2
    _slowest: float = field(default=0.0, init=False)
    _next_read: float = field(default=0.0, init=False)
    _called: set[str] = field(default_factory=set, init=False)
    _done_here: set[str] = field(default_factory=set, init=False)
    """Last parts of the names of units that this process has done: ranges, of phase after phase."""

    def __post_init__(self) -> None:
        self._phases = Phases(self.ledger.root)

    def run(self, units: Sequence[Unit], do: Do, description: str) -> None:
        """Return when all units of a phase are done, whoever did them.

        Args:
            units: They need nothing of each other. Their order is that of the shares: a process
                has neighbours, of phase after phase.
            do: Does one.
            description: Of the work, for the terminal.

        Raises:
            Exception: What `do` raised in the first process; others leave such a unit to it.
            OtherUnitsError: If `check` or `do` raised it, in any process.
        """
        self.check()
        if self.rank == 0 and units:
            self._phases.keep(Phase(self.parts_for(units[0].stage), units))
        self.ledger.refresh()
        parts = shares(units, self.size)
        # A process looks at the files of its share: a thousand that look at all wear out a server.
        logged = [one for one in parts[self.rank] if self.ledger.is_logged(one)]
        self.ledger.drop(self.ledger.missing(logged), lost=True)
        left = [one for one in in_order(parts, self.rank) if not self.ledger.is_over(one)]
        left.sort(key=lambda one: _range_of(one) not in self._done_here)
        if not left:
            return
        self._learn(units)
        if self.rank == 0 and self.size > 1 and len(left) > 1:
            self._call(left[0].stage)
        finished = self._finished(left, do)
        if self.rank == 0:
            finished = track(finished, description, total=len(left))
        for _ in finished:
            pass

    def until_sound(self, work: Callable[[], _Result]) -> _Result:
        """Return what a stage's work returns, done again for a unit whose files are damaged."""
        self.ledger.begin()
        for _ in range(_TRIES):
            try:
                return work()
            except CorruptUnitError as error:
                logger.warning("%s", error)
                self.ledger.begin()
                self._called.discard(error.unit.stage)
        return work()

    def prune(self, units: Sequence[Unit]) -> None:
        """Remove a stage's units that are none of these nor of the audits before that are kept.

        Args:
            units: What the stage has done, to its end.
        """
        if self.rank == 0:
            stage = units[0].stage
            audit, there = self.parts_for(stage), filter(self.ledger.is_logged, units)
            self._phases.keep(Phase(audit, list(there)))
            before = self._phases.before(stage, audit, self.kept_audits - 1)
            self.ledger.drop(self.ledger.others(stage, [*units, *before]))

    def _call(self, stage: str) -> None:
        """Call the others to a stage, once for all of its phases."""
        if stage not in self._called:
            self._called.add(stage)
            self.call(stage)

    def _finished(self, units: Sequence[Unit], do: Do) -> Iterator[Unit]:
        """Yield each unit when it is done."""
        left, failed = dict.fromkeys(units), set[Unit]()
        while left:
            start = time.monotonic()
            worked = False
            for unit in list(islice(left, _ASKED)):
                worked = unit not in failed and self._is_mine(unit, do, failed)
                if worked:
                    break
                # Another process is at it: asked for again when all others have been.
                left[unit] = left.pop(unit)
            if not worked:
                end = time.monotonic()
                time.sleep(max(_POLL_SECONDS, _RARER * (end - start), self._next_read - end))
            # Read just before the next is asked for: what was done and dropped is not done again.
            over = (unit, *self._read())
            self._learn(over)
            for one in over:
                if one in left and self.ledger.is_over(one):
                    del left[one]
                    yield one

    def _read(self) -> Sequence[Unit]:
        """Return what others have done since, where logs were not read just before."""
        start = time.monotonic()
        if start < self._next_read:
            return []
        read = self.ledger.refresh()
        self.check()
        end = time.monotonic()
        self._next_read = end + _RARER * (end - start)
        return read

    def _is_mine(self, unit: Unit, do: Do, failed: set[Unit]) -> bool:
        """Do a unit, unless another process is at it; return whether it was done or tried."""
        if self.ledger.is_over(unit):
            return True
        if self.size == 1:
            self.ledger.write(unit, do)
            return True
        lock = FileLock(self.ledger.lock_file(unit))
        lock_path = Path(lock.lock_file)
        lock_path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with lock.acquire(timeout=0):
                if not self.ledger.is_written(unit):
                    self._watched(unit, do, failed)
                lock_path.unlink(missing_ok=True)
        except Timeout:
            return False
        return True

    def _watched(self, unit: Unit, do: Do, failed: set[Unit]) -> None:
        """Do a unit in one of several processes."""
        limit = max(self.timeout, _SLOWER * self._slowest)
        saying = threading.Timer(limit, logger.error, (_HANGS, unit.stage, unit.name, limit))
        saying.daemon = True
        saying.start()
        faulthandler.dump_traceback_later(limit + _SECONDS_TO_SAY, exit=True)
        try:
            self.ledger.write(unit, do)
            self._done_here.add(_range_of(unit))
        except Exception as error:
            if self.rank == 0 or isinstance(error, OtherUnitsError | OtherDataError):
                raise
            logger.error(
                "Rank %d leaves %s/%s to another: %s",
                *(self.rank, unit.stage, unit.name, error),
                exc_info=not isinstance(error, InputError),
            )
            failed.add(unit)
        finally:
            faulthandler.cancel_dump_traceback_later()
            saying.cancel()

    def _learn(self, units: Iterable[Unit]) -> None:
        """Know how long units took, whoever did them."""
        known = (self.ledger.seconds(one) or 0.0 for one in units)
        self._slowest = max(self._slowest, max(known, default=0.0))


def shares(units: Sequence[Unit], size: int) -> list[Sequence[Unit]]:
    """Return neighbouring units for each of `size` processes, of about the same cost each."""
    ends = list(accumulate(unit.cost for unit in units))
    total = ends[-1] if ends else 0.0
    parts: list[list[Unit]] = [[] for _ in range(size)]
    for unit, end in zip(units, ends, strict=True):
        # By the middle of the unit, so that one of all the cost is not the last process's.
        middle = end - unit.cost / 2
        parts[min(size - 1, int(size * middle / total) if total else 0)].append(unit)
    return list(parts)


def _range_of(unit: Unit) -> str:
    return unit.name.rpartition("/")[2]


def in_order(parts: Sequence[Sequence[_One]], rank: int) -> Iterator[_One]:
    """Yield units in the order in which a process takes them: its share, then what others have.

    Others' from the end, where their own processes come last, and its neighbour's first.
    """
    yield from parts[rank]
    for step in range(1, len(parts)):
        yield from reversed(parts[rank - step])
