"""The units of every phase of work, kept so that who counts them needs none of a stage's set-up."""

import json
from collections.abc import Sequence
from pathlib import Path

from sourcetrace.files import read_optional_json, replacing
from sourcetrace.work.ledger import Unit

_FOLDER = "phases"


class Phases:
    """Every stage's phases, as its last audit cut them.

    Args:
        root: Of the ledger.
    """

    def __init__(self, root: Path) -> None:
        self._root = root / _FOLDER
        self._kept: dict[str, set[Unit]] = {}

    def keep(self, units: Sequence[Unit]) -> None:
        """Keep what is new of a phase; where nothing is of the audit before, that is forgotten."""
        stage, begins = units[0].stage, units[0].stage not in self._kept
        if begins:
            self._kept[stage] = {one for phase in self.of(stage) for one in phase}
        new = [one for one in units if one not in self._kept[stage]]
        if begins and len(new) == len(units):
            self._kept[stage] = set()
            for file in self._files(stage):
                file.unlink(missing_ok=True)
        if not new:
            return
        self._kept[stage] |= set(new)
        common = dict(sorted(set.intersection(*(set(one.made_of.items()) for one in new))))
        own = [[one.name, one.cost, dict(one.made_of.items() - common.items())] for one in new]
        with replacing(self._root / stage / f"{len(self._files(stage)):06d}.json") as partial:
            partial.write_text(json.dumps({"made_of": common, "units": own}), encoding="utf-8")

    def of(self, stage: str) -> list[list[Unit]]:
        """Return the units of a stage's phases, in their order."""
        phases = map(read_optional_json, self._files(stage))
        return [
            [Unit(stage, name, {**one["made_of"], **own}, cost) for name, cost, own in one["units"]]
            for one in phases
        ]

    def _files(self, stage: str) -> list[Path]:
        return sorted((self._root / stage).glob("*.json"))
