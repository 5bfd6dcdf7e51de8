"""The units of every phase of work, kept so that who counts them needs none of a stage's set-up."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from sourcetrace.files import read_optional_json, replacing
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
    """Every stage's phases, as its last audit cut them.

    Args:
        root: Of the ledger.
    """

    def __init__(self, root: Path) -> None:
        self._root = root / _FOLDER
        self._kept: dict[str, set[Unit]] = {}

    def keep(self, phase: Phase) -> None:
        """Keep what is new of a phase, and forget what a stage had of another audit."""
        stage = phase.units[0].stage
        if stage not in self._kept:
            before = self.of(stage)
            known = {unit for one in before if one.audit == phase.audit for unit in one.units}
            if known.isdisjoint(phase.units):
                known = set()
                for file in self._files(stage):
                    file.unlink(missing_ok=True)
            self._kept[stage] = known
        new = [one for one in phase.units if one not in self._kept[stage]]
        if not new:
            return
        self._kept[stage] |= set(new)
        common = dict(sorted(set.intersection(*(set(one.made_of.items()) for one in new))))
        own = [[one.name, one.cost, dict(one.made_of.items() - common.items())] for one in new]
        content = {"audit": dict(phase.audit), "made_of": common, "units": own}
        with replacing(self._root / stage / f"{len(self._files(stage)):06d}.json") as partial:
            partial.write_text(json.dumps(content), encoding="utf-8")

    def of(self, stage: str) -> list[Phase]:
        """Return a stage's phases, in their order."""
        return [
            Phase(
                one["audit"],
                [
                    Unit(stage, name, {**one["made_of"], **own}, cost)
                    for name, cost, own in one["units"]
                ],
            )
            # Another audit's may begin meanwhile.
            for one in filter(None, map(read_optional_json, self._files(stage)))
        ]

    def _files(self, stage: str) -> list[Path]:
        return sorted((self._root / stage).glob("*.json"))
