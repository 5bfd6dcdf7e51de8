"""Which units of work are done: each is a folder of files under what it was made of.

A unit's identity is in the folder's name, so that an older result stays until a newer one is whole,
and two processes that do the same unit write the same bytes to the same place. What is written goes
beside and is renamed; then a line in the process's own log says so, with the digest of every file.
A unit is done when a log says so and the files have their sizes; the bytes are checked when a
process first reads them.
"""

import json
import os
import shutil
import socket
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, NamedTuple
from urllib.parse import quote

from sourcetrace.files import digest_of, file_digest, sync_tree
from sourcetrace.work.unit import CorruptUnitError, KeptFile, Unit

State = Literal["done", "missing", "stale"]

_LOG = "log"
_FOLDERS = f"*/*.{'[0-9a-f]' * 16}"
"""Of units."""

_LONGEST = 80
"""Characters of a unit's name in a folder's; a longer one is cut, and told apart by its digest."""

_WORTH_SYNCING = 1.0
"""Seconds of work for whose result the disk is waited for. What a power failure takes of others,
sizes and digests find, and they are done again."""


class _Key(NamedTuple):
    stage: str
    name: str
    identity: str


class Ledger:
    """The units of a project that are done, in any process.

    Args:
        root: A folder that all processes share.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._lines: dict[_Key, dict[str, Any]] = {}
        self._parts: dict[tuple[str, str], dict[str, str]] = {}
        self._read: dict[Path, int] = {}
        self._checked: set[_Key] = set()
        self._dropped: dict[_Key, float] = {}
        self._log = root / _LOG / f"{socket.gethostname()}-{os.getpid()}-{time.time_ns()}.jsonl"

    def refresh(self) -> list[Unit]:
        """Read what other processes have done since the last time, and return those units."""
        read: list[Unit] = []
        for log in sorted((self.root / _LOG).glob("*.jsonl")):
            try:
                opened = log.open("rb")
            except FileNotFoundError:  # another process has put all into one
                return [*filter(self.is_over, read), *self.refresh()]
            with opened:
                opened.seek(self._read.get(log, 0))
                content = opened.read()
            # What a kill left of the last line is not read; the next process has a log of its own.
            whole = content.rfind(b"\n") + 1
            self._read[log] = self._read.get(log, 0) + whole
            for line in content[:whole].splitlines():
                # A damaged line says nothing: its unit is done again.
                with suppress(ValueError, KeyError, TypeError):
                    read.append(self._take(_checked(json.loads(line))))
        return [one for one in read if self.is_over(one)]

    def begin(self) -> None:
        """Read the logs before a stage's work: what was dropped until now may be wanted again."""
        self.refresh()
        self._dropped.clear()

    def is_over(self, unit: Unit) -> bool:
        """Return whether a unit is done, or was since `begin` until nobody needed it any more."""
        return self.is_logged(unit) or _key(unit) in self._dropped

    def is_logged(self, unit: Unit) -> bool:
        """Return whether a log that was read says that a unit is done."""
        return _key(unit) in self._lines

    def is_written(self, unit: Unit) -> bool:
        """Return whether a unit is done, to who holds its lock; logs are read where it may be."""
        if not self.is_over(unit) and self._folder(unit).exists():
            self.refresh()
        return self.is_over(unit)

    def states(self, units: Iterable[Unit]) -> list[State]:
        """Return what is known of units; of files, their sizes alone are looked at."""
        return [
            "done" if self._is_done(one) else "stale" if self.differences(one) else "missing"
            for one in units
        ]

    def missing(self, units: Iterable[Unit]) -> list[Unit]:
        """Return those that are not done."""
        return [one for one in units if not self._is_done(one)]

    def differences(self, unit: Unit) -> list[str]:
        """Return the parts in which the last unit of the name was made of something else."""
        last = self._parts.get((unit.stage, unit.name), {})
        names = sorted({*last, *unit.made_of}) if last else ()
        return [name for name in names if last.get(name) != unit.made_of.get(name)]

    def facts(self, unit: Unit) -> Mapping[str, Any]:
        """Return what was said of a unit that is done; `seconds` among it.

        Raises:
            CorruptUnitError: If another process found it damaged.
        """
        if not self.is_logged(unit):
            raise CorruptUnitError(unit, self._folder(unit))
        facts: Mapping[str, Any] = self._lines[_key(unit)]["facts"]
        return facts

    def seconds(self, unit: Unit) -> float | None:
        """Return what a unit took, where a log says so, though it was dropped since."""
        line = self._lines.get(_key(unit))
        return self._dropped.get(_key(unit)) if line is None else line["facts"]["seconds"]

    def folder(self, unit: Unit) -> Path:
        """Return the folder of a unit that is done, its bytes checked once a process.

        Raises:
            CorruptUnitError: If they are not those that were written, or another process found so.
        """
        key, folder = _key(unit), self._folder(unit)
        if key not in self._lines:
            raise CorruptUnitError(unit, folder)
        if key not in self._checked:
            if (file := self.damaged_file(unit)) is not None:
                self.drop([unit], lost=True)
                raise CorruptUnitError(unit, file)
            self._checked.add(key)
        return folder

    def damaged_file(self, unit: Unit) -> Path | None:
        """Return a file of a unit that is done which is not what was written; reads every byte."""
        for name, (_, digest) in self._lines[_key(unit)]["files"].items():
            file: Path = self._folder(unit) / name
            with suppress(FileNotFoundError):  # a run may remove it meanwhile
                if file.is_file() and file_digest(file) == digest:
                    continue
            return file
        return None

    def file(self, unit: Unit, name: str) -> KeptFile:
        """Return a file of a unit that is done, as `folder` returns them all."""
        folder = self.folder(unit)
        return KeptFile(folder / name, self._lines[_key(unit)]["files"][name][1])

    def write(self, unit: Unit, do: Callable[[Unit, Path], Mapping[str, Any] | None]) -> None:
        """Do a unit, and say that it is done.

        Args:
            unit: The unit.
            do: Writes its files into an empty folder, and returns what is said of it, as JSON.
        """
        folder = self._folder(unit)
        partial = folder.with_name(f"{folder.name}.{socket.gethostname()}-{os.getpid()}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        start = time.perf_counter()
        try:
            said = do(unit, partial) or {}
            seconds = time.perf_counter() - start
            if seconds >= _WORTH_SYNCING:
                sync_tree(partial)
            files = {
                file.name: (file.stat().st_size, file_digest(file))
                for file in sorted(partial.iterdir())
            }
            # Another process may have done it meanwhile, with the same bytes; or these are damaged.
            shutil.rmtree(folder, ignore_errors=True)
            os.rename(partial, folder)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
        self._say(unit, files=files, facts={"seconds": seconds, **said})
        self._checked.add(_key(unit))

    def drop(self, units: Iterable[Unit], *, lost: bool = False) -> None:
        """Remove units' files, as far as a log names them.

        Args:
            units: The units.
            lost: Whether they are to be done again; otherwise nobody needs them any more.
        """
        for unit in units:
            if _key(unit) in self._lines:
                facts = {"lost": lost, "seconds": self.seconds(unit)}
                self._say(unit, files=None, facts=facts)
                shutil.rmtree(self._folder(unit), ignore_errors=True)

    def others(self, stage: str, units: Sequence[Unit]) -> list[Unit]:
        """Return a stage's units that are done and none of these."""
        wanted = {_key(one) for one in units}
        return [
            Unit(key.stage, key.name, line["made_of"])
            for key, line in self._lines.items()
            if key.stage == stage and key not in wanted
        ]

    def tidy(self) -> None:
        """Put all logs into one, and remove what killed processes had not finished or removed.

        Only where no other process works here.
        """
        self.refresh()
        known = {
            self._folder(Unit(key.stage, key.name, line["made_of"]))
            for key, line in self._lines.items()
        }
        for left in {*self.root.glob(_FOLDERS), *self.root.glob("*/*.partial")} - known:
            shutil.rmtree(left, ignore_errors=True)
        for left in self.root.glob("*/*.lock"):
            left.unlink(missing_ok=True)
        self._log.parent.mkdir(parents=True, exist_ok=True)
        old = sorted(self._log.parent.glob("*.jsonl"))
        if len(old) > 1:
            self._append(*self._lines.values())
            sync_tree(self._log.parent)  # else a power failure may take the new one with the old
            for log in old:
                if log != self._log:
                    log.unlink()

    def lock_file(self, unit: Unit) -> Path:
        """Return the file whose lock who does a unit holds."""
        folder = self._folder(unit)
        return folder.with_name(f"{folder.name}.lock")

    def _is_done(self, unit: Unit) -> bool:
        line = self._lines.get(_key(unit))
        if line is None:
            return False
        folder = self._folder(unit)
        try:
            return all(
                (folder / name).stat().st_size == size for name, (size, _) in line["files"].items()
            )
        except OSError:
            return False

    def _folder(self, unit: Unit) -> Path:
        name = quote(unit.name, safe="")
        if len(name) > _LONGEST:
            name = f"{name[:_LONGEST]}.{digest_of(unit.name)}"
        return self.root / unit.stage / f"{name}.{unit.identity}"

    def _say(self, unit: Unit, **said: Any) -> None:
        line = {"stage": unit.stage, "name": unit.name, "made_of": dict(unit.made_of), **said}
        self._append(line)
        self._take(line)

    def _append(self, *lines: Mapping[str, Any]) -> None:
        self._log.parent.mkdir(parents=True, exist_ok=True)
        with self._log.open("ab") as opened:
            if opened.tell() != self._read.get(self._log, 0):  # a full disk has cut the last line
                opened.write(b"\n")
            for one in lines:
                opened.write(json.dumps({**one, "line": digest_of(one)}).encode() + b"\n")
            self._read[self._log] = opened.tell()

    def _take(self, line: dict[str, Any]) -> Unit:
        unit = Unit(line["stage"], line["name"], line["made_of"])
        key = _key(unit)
        if line["files"] is None:
            self._lines.pop(key, None)
            self._checked.discard(key)
            if not line["facts"]["lost"]:
                self._dropped[key] = line["facts"]["seconds"]
        else:
            self._lines[key] = line
            self._parts[unit.stage, unit.name] = line["made_of"]
        return unit


def _checked(line: dict[str, Any]) -> dict[str, Any]:
    """Return a line of a log, if it has the digest that it was written with."""
    if line.pop("line") != digest_of(line):
        raise ValueError
    return line


def _key(unit: Unit) -> _Key:
    return _Key(unit.stage, unit.name, unit.identity)
