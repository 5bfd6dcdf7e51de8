"""The task that is audited, made from its import path."""

import logging
from collections.abc import Mapping
from typing import Any, NoReturn

from kedro.io import AbstractDataset

from sourcetrace.datasets.entries import with_entries

logger = logging.getLogger(__name__)


class TaskDataset(AbstractDataset[NoReturn, Any]):
    """Makes the task once and hands the same object to every stage.

    The module is found as any import is, and in the project's folder. An argument may be an entry
    of the catalog: `{catalog: customers}` is what that entry holds.

    YAML:
        task:
          type: sourcetrace.datasets.TaskDataset
          specification: {class: my_team.tasks.Churn, arguments: {year: 2026}}

    Python:
        TaskDataset(specification={"class": "my_team.tasks.Churn"}).load()
    """

    def __init__(self, specification: Mapping[str, Any]) -> None:
        self._specification = dict(specification)
        self._task: Any = None

    def _load(self) -> Any:
        # Here, because a task imports torch, and kedro-mlflow makes every data set of the catalog
        # whenever anything runs.
        from sourcetrace.tasks.loading import load_task

        if self._task is None:
            self._task = load_task(with_entries(self._specification))
            for note in getattr(self._task, "notes", ()):
                logger.warning("%s", note)
        return self._task

    def _save(self, data: NoReturn) -> None:
        raise NotImplementedError("A task is written by a person, not saved.")

    def _describe(self) -> dict[str, Any]:
        return {"class": self._specification.get("class")}
