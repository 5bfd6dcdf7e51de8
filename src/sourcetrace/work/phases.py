"""The units of every phase of work, kept so that who counts them needs none of a stage's set-up."""

import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from sourcetrace.files import digest_of, read_optional_json, write_json
from sourcetrace.work.unit import Unit

_FOLDER = "phases"


class Phase(NamedTuple):
    """Units that are done before others begin.

    Attributes:
        audit: Part -> digest: what the audit was made of, as far as the stage goes; that of units
            may be less.
        units: In their order.
    """

    audit: Mapping[str, str]
    units: Sequence[Unit]


class Phases:
    """Every stage's phases, as the last audits cut them.

    Args:
        root: Of the ledger.
    """

    def __init__(self, root: Path) -> None:
        self._root = root / _FOLDER
        self._kept: dict[Path, set[Unit]] = {}

    def keep(self, phase: Phase) -> None:
        """Keep what is new of a phase, and forget what the audit was cut into otherwise."""
        folder = self._folder(phase.units[0].stage, phase.audit)
        if folder not in self._kept:
            known = {unit for one in _read(folder) for unit in one.units}
            if known.isdisjoint(phase.units):
                known = set()
                shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True, exist_ok=True)
            os.utime(folder)  # it is the last
            self._kept[folder] = known
        new = [one for one in phase.units if one not in self._kept[folder]]
        if not new:
            return
        self._kept[folder] |= set(new)
        common = dict(sorted(set.intersection(*(set(one.made_of.items()) for one in new))))
        own = [[one.name, one.cost, dict(one.made_of.items() - common.items())] for one in new]
        content = {"audit": dict(phase.audit), "made_of": common, "units": own}
        write_json(folder / f"{len(_files(folder)):06d}.json", content)

    def of(self, stage: str, audit: Mapping[str, str] | None = None) -> list[Phase]:
        """Return the phases of an audit, in their order; of the last one where it has none."""
        named = [self._folder(stage, audit)] if audit else []
        return next(filter(None, map(_read, [*named, *self._last(stage)])), [])

    def before(self, stage: str, audit: Mapping[str, str], count: int) -> list[Unit]:
        """Return the units of the last audits before this one, and forget those of others."""
        folders = [one for one in self._last(stage) if one != self._folder(stage, audit)]
        for old in folders[count:]:
            shutil.rmtree(old, ignore_errors=True)
        return [unit for one in folders[:count] for phase in _read(one) for unit in phase.units]

    def _folder(self, stage: str, audit: Mapping[str, str]) -> Path:
        return self._root / stage / digest_of(dict(audit))

    def _last(self, stage: str) -> list[Path]:
        return sorted((self._root / stage).glob("*"), key=_time, reverse=True)


def _time(folder: Path) -> int:
    try:
        return folder.stat().st_mtime_ns
    except FileNotFoundError:  # it is forgotten meanwhile
        return 0


def _files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.json"))


def _read(folder: Path) -> list[Phase]:
    return [
        Phase(
            one["audit"],
            [
                Unit(folder.parent.name, name, {**one["made_of"], **own}, cost)
                for name, cost, own in one["units"]
            ],
        )
        for one in filter(None, map(read_optional_json, _files(folder)))
    ]
