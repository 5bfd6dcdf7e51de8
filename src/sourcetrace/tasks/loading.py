"""A task from its import path and arguments."""

import importlib
import inspect
from collections.abc import Mapping
from typing import Any

from sourcetrace.errors import InputError
from sourcetrace.parameters import TaskParameters
from sourcetrace.tasks.protocol import Task
from sourcetrace.validation import validated


def load_task(specification: Mapping[str, Any]) -> Any:
    """Return the task named by `specification`.

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
    try:
        inspect.signature(task_class).bind(**parameters.arguments)
    except TypeError as error:
        raise InputError(
            f"task.arguments do not fit {parameters.class_path}: {error}. Given: "
            f"{', '.join(parameters.arguments) or 'none'}."
        ) from error
    task = task_class(**parameters.arguments)
    if not isinstance(task, Task):
        missing = sorted(name for name in _parts(Task) if not hasattr(task, name))
        raise InputError(
            f"{parameters.class_path} is not a task: it lacks {', '.join(missing)}. Derive it "
            "from sourcetrace.tasks.ClassificationTask or RegressionTask, or add them."
        )
    return task


def _parts(protocol: Any) -> set[str]:
    return {name for name in vars(protocol) if not name.startswith("_")} | set(
        protocol.__annotations__
    )
