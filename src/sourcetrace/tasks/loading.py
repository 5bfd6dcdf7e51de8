"""A task from its import path and arguments."""

import importlib
import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from kedro.io import AbstractDataset, DatasetError

from sourcetrace.errors import InputError, with_place
from sourcetrace.parameters import TaskParameters
from sourcetrace.redaction import hide_credentials
from sourcetrace.tasks.protocol import Task
from sourcetrace.tasks.search import with_candidates
from sourcetrace.tasks.set_aside import without_unusable
from sourcetrace.validation import validated


def load_task(specification: Mapping[str, Any]) -> Any:
    """Return the task named by `specification`.

    Args:
        specification: As `TaskParameters`; arguments may hold data sets of the catalog's entries
            (`datasets.entries.with_entries`).

    Raises:
        InputError: If it cannot be imported, made, or lacks a part of the task protocol.
    """
    parameters = validated(
        TaskParameters,
        dict(specification),
        name="task",
        before="task: expected {class: package.module.Class, arguments: {…}}, "
        f"got keys {', '.join(map(str, specification)) or 'none'}. ",
    )
    module_name, class_name = parameters.class_path.rsplit(".", 1)
    try:
        with _described(f"task.class: the import of {module_name!r}"):
            module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise InputError(
            f"task.class: cannot import {parameters.class_path!r}: there is no module "
            f"{error.name!r}. Put it into the project's folder or install it, and correct "
            "task.class in the parameters."
        ) from error
    task_class = getattr(module, class_name, None)
    if task_class is None:
        raise InputError(
            f"task.class: module {module_name!r} has no class {class_name!r}. "
            "Correct task.class in the parameters."
        )
    arguments = {
        name: _loaded(value, f"task.arguments.{name}")
        for name, value in parameters.arguments.items()
    }
    try:
        inspect.signature(task_class).bind(**arguments)
    except TypeError as error:
        raise InputError(
            f"task.arguments do not fit {parameters.class_path}: {error}. Given: "
            f"{', '.join(parameters.arguments) or 'none'}."
        ) from error
    with _described(f"{parameters.class_path}(…)"):
        task = task_class(**arguments)
    if not isinstance(task, Task):
        missing = sorted(name for name in _parts(Task) if not hasattr(task, name))
        raise InputError(
            f"{parameters.class_path} is not a task: it lacks {', '.join(missing)}. Derive it "
            "from sourcetrace.tasks.ClassificationTask or RegressionTask, or add them."
        )
    if parameters.candidates is not None:
        with _described("task.candidates"):
            task = with_candidates(task, parameters.candidates)
    if not parameters.set_aside:
        return task
    with _described("task.set_aside"):
        return without_unusable(task, parameters.set_aside)


@contextmanager
def _described(what: str) -> Iterator[None]:
    """Say where the user's code failed."""
    try:
        yield
    except (InputError, ModuleNotFoundError):
        raise
    except Exception as error:  # the user's code may raise anything
        said = with_place(error, hide_credentials(str(error)))
        raise InputError(f"{what} failed: {said}.") from error


def _loaded(value: Any, called: str) -> Any:
    """Return what the entry holds that an argument names, or the argument.

    `{catalog: entry}` is what it holds, `{catalog: entry, where: …}` is `{data: …, where: …}`.
    """
    entry = value.get("catalog") if isinstance(value, Mapping) else None
    if not isinstance(entry, AbstractDataset):
        return value
    others = {key: one for key, one in value.items() if key != "catalog"}
    try:
        data = entry.load()
    except DatasetError as error:
        raise InputError(
            f"{called}: the catalog's entry cannot be loaded: {hide_credentials(str(error))}"
        ) from error
    return {"data": data, **others} if others else data


def _parts(protocol: Any) -> set[str]:
    return {name for name in vars(protocol) if not name.startswith("_")} | set(
        protocol.__annotations__
    )
