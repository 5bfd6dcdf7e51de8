"""Units of work: what decides the bytes of passes, and sums of parts.

A sum over the examples is made in units of a range each, which are added in their order and
dropped.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch

from sourcetrace.core.layers.layer import Layer
from sourcetrace.core.model.examples import Block, EvaluationPoint
from sourcetrace.files import digest_of
from sourcetrace.pipelines.set_up.audit_setup import AuditSetup
from sourcetrace.work.unit import OtherUnitsError, Unit

_Result = TypeVar("_Result")

Work = Mapping[Unit, Callable[[Path], Mapping[str, Any] | None]]
"""Unit -> what writes its files into a folder, and returns what is said of it beside."""


class Summed(Protocol):
    """A unit that has the sums of others, or is the only one."""

    @property
    def unit(self) -> Unit:
        """What has the sums."""

    @property
    def parts(self) -> Work:
        """What does the ranges, in their order; of one range the unit itself."""

    def join(self, folder: Path) -> Mapping[str, Any] | None:
        """Write what the parts have together, and return what is said of it beside."""


def passes_parts(
    setup: AuditSetup,
    points: Sequence[EvaluationPoint],
    block: Block,
    layers: Sequence[Sequence[Layer]],
    *,
    labels: bool = False,
) -> dict[str, str]:
    """Return digests of what decides passes at some points, in place of all that an audit has.

    Args:
        setup: Of the audit.
        points: The weights.
        block: The examples.
        layers: Whose gradients are taken, and what else the passes are of.
        labels: Whether the examples' own labels decide what is kept.
    """
    files = dict(setup.inputs.manifest.select("checkpoint_id", "sha256").iter_rows())
    weights = [[files[name] for name in one.checkpoints] for one in points]
    examples = [
        [
            setup.contents.digest(one.rows(block), labels=labels),
            *map(_digest, (one.rows(block), block.among(one.curvature_examples))),
        ]
        for one in points
    ]
    shapes = [[(one.name, one.shape) for one in own] for own in layers]
    precision = setup.attribution.precision
    return {
        "checkpoints": digest_of(weights),
        "examples": digest_of(examples),
        # Rows name their point, and the same weights may be of several.
        "segments": digest_of([[(one.id, one.draws) for one in points], shapes]),
        "gradients": digest_of([setup.attribution.seed, precision.passes, precision.curvature]),
        "set_aside": "",
    }


def do(setup: AuditSetup, work: Work, description: str) -> None:
    """Return when all units of a phase are done, whoever did them.

    Args:
        setup: Of the audit.
        work: The units.
        description: For the terminal.
    """

    def one(unit: Unit, folder: Path) -> dict[str, Any]:
        with setup.set_aside.refusing():
            said = work[unit](folder) or {}
        return {"threads": torch.get_num_threads(), **said}

    setup.team.run(list(work), one, description)


def until_settled(setup: AuditSetup, work: Callable[[], _Result]) -> _Result:
    """Return what a stage's work returns, done again where a file turns out damaged.

    Where an example is set aside, what has it is done again without it: of sums that are not added
    yet the range alone.
    """
    while True:
        setup.set_aside.refresh()
        setup.choose_curvature()
        with suppress(OtherUnitsError):
            found = setup.team.until_sound(work)
            setup.set_aside.settle()
            return found


def do_summed(
    setup: AuditSetup, wanted: Sequence[Summed], *said: str, beside: Work | None = None
) -> None:
    """Return when some sums are done; parts are done of those alone that are missing.

    Args:
        setup: Of the audit.
        wanted: The sums.
        said: Descriptions of doing the parts and of adding them, for the terminal.
        beside: What else belongs to the parts' phase.
    """
    ledger = setup.team.ledger
    sums = {one.unit: one for one in wanted}
    ledger.refresh()
    missing = [own for unit, own in sums.items() if not ledger.is_over(unit)]
    parts = {unit: part for one in missing for unit, part in one.parts.items()}
    do(setup, {**parts, **(beside or {})}, said[0])
    do(setup, {one.unit: one.join for one in missing}, said[1])
    if setup.team.rank == 0:
        ledger.drop(unit for unit in parts if unit not in sums)


def _digest(numbers: torch.Tensor) -> str:
    return hashlib.sha256(numbers.numpy().tobytes()).hexdigest()
