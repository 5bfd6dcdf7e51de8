"""Training examples that turn out to be of no use while they are computed with.

They are left out at every point and in every stage, as if the data had never had them. Those that
cannot be read are left out by the task itself (`tasks.set_aside`), before anything has a number.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from sourcetrace.core.engine.blame import UnusableError
from sourcetrace.core.model.examples import EvaluationPoint, Examples, spread
from sourcetrace.errors import InputError
from sourcetrace.files import read_optional_json
from sourcetrace.formats import format_names, format_noun
from sourcetrace.locks import shared_json
from sourcetrace.pipelines.shared.inputs import Ingested
from sourcetrace.tasks.protocol import Task
from sourcetrace.tasks.set_aside import may_set_aside, set_aside
from sourcetrace.work.unit import OtherUnitsError

logger = logging.getLogger(__name__)

_FILE = "excluded.json"

_TRIED = 32
"""Examples among which a run's checks and choices take theirs."""


def usable_few(task: Task, model: nn.Module, training: Examples) -> Examples:
    """Return what a run tries itself on before it computes: all, where none may be set aside.

    Else a few, spread evenly, without those that have no finite loss; an audit comes to these.
    """

    def works(example: int) -> bool:
        try:
            batch = few.batch([example], next(model.parameters()).device)
            with torch.no_grad():
                losses = task.train_loss(task.forward(model, batch), batch)
            return bool(losses.isfinite().all())
        except Exception:  # whatever the user's code raises
            return False

    if not may_set_aside(task):
        return training
    few = training.subset(spread(torch.arange(len(training)), _TRIED).tolist())
    usable = [i for i in range(len(few)) if works(i)]
    return few.subset(usable) if len(usable) > 1 else training


@dataclass
class SettingAside:
    """Takes note of them, for this run and later ones of the same audit, up to `task.set_aside`.

    Attributes:
        inputs: Of the audit; the task is without examples that cannot be read.
        folder: Where the note is kept, for all processes.
        share: Of the training examples, with those that cannot be read.
        excluded: Those that were known when they were last asked for: example_id, index, reason
            and checkpoint_id.
    """

    inputs: Ingested
    folder: Path
    share: float
    excluded: list[dict[str, Any]] = field(default_factory=list)
    _noted: bool = field(default=False, init=False)

    def refresh(self) -> tuple[int, ...]:
        """Read anew which they are; return their numbers, increasing.

        Raises:
            InputError: If they are more than the share, as where an earlier run was allowed more.
        """
        self.excluded = (read_optional_json(self.folder / _FILE) or {}).get(
            self.inputs.identity, []
        )
        for one in self.excluded[:1]:
            named = f"Example {one['example_id']!r} (index {one['index']}): {one['reason']}."
            self._refuse(named, len(self.excluded))
        return self.numbers

    def settle(self) -> None:
        """Read them anew, as another process may have set some aside.

        Raises:
            OtherUnitsError: If there are others than before.
        """
        known = self.numbers
        if self.refresh() != known:
            raise OtherUnitsError

    @contextmanager
    def refusing(self) -> Iterator[None]:
        """Do a unit's work, which is of no use where it has set an example aside.

        Raises:
            OtherUnitsError: If it has.
        """
        self._noted = False
        try:
            yield
        except UnusableError:
            if not self._noted:
                raise
        if self._noted:
            raise OtherUnitsError

    @property
    def numbers(self) -> tuple[int, ...]:
        """Of those that are known, increasing."""
        return tuple(sorted(one["index"] for one in self.excluded))

    def __call__(self, error: UnusableError, point: EvaluationPoint) -> None:
        """Note the examples of an error.

        Raises:
            InputError: If there are more than the share by now.
        """
        ids = self.inputs.train_table["example_id"]
        found = {
            i: {"example_id": ids[i], "index": i, "reason": one, "checkpoint_id": point.id}
            for i, one in error.reasons.items()
        }
        with shared_json(self.folder / _FILE) as kept:
            known = {one["index"]: one for one in kept.get(self.inputs.identity, [])}
            for number, one in found.items():
                known.setdefault(number, one)
            self._refuse(str(error), len(known))
            kept[self.inputs.identity] = list(known.values())
        self._noted |= not found.keys() <= {*self.numbers}
        logger.warning(
            "%s set aside that cannot be used (task.set_aside): %s; the first: %s. set_aside.json "
            "names all",
            format_noun(len(found), "example"),
            format_names(f"{one['example_id']!r} (index {i})" for i, one in found.items()),
            next(iter(found.values()))["reason"],
        )

    def listed(self) -> list[dict[str, Any]]:
        """Return all of both sides, with those that cannot be read; their index is the table's."""
        unread = {side: set_aside(self.inputs.task, side) for side in ("train", "query")}
        gone = [one["index"] for one in unread["train"]]
        numbers = np.delete(np.arange(len(gone) + self.inputs.train_table.height), gone)
        computed = [one | {"index": int(numbers[one["index"]])} for one in self.excluded]
        return [
            {"side": side, "checkpoint_id": None} | one
            for side, found in (*unread.items(), ("train", computed))
            for one in found
        ]

    def _refuse(self, named: str, count: int) -> None:
        unread = len(set_aside(self.inputs.task, "train"))
        count, whole = unread + count, unread + self.inputs.train_table.height
        if count > self.share * whole:
            raise InputError(
                f"{named} Of {whole:,} training examples {count:,} cannot be used so far; "
                f"task.set_aside is {self.share:g}, the share that may be left out."
            )
