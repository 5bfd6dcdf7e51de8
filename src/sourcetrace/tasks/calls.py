"""Calls of a task's parts, which are a user's code."""

from typing import Any

from sourcetrace.core.machine.halving import is_out_of_memory
from sourcetrace.core.model.objective import sampled_loss
from sourcetrace.errors import InputError, with_place
from sourcetrace.tasks.protocol import Task


def call(task: Task, name: str, on: str = "", *arguments: Any) -> Any:
    """Call a part of the task; say where in the user's code it failed, and on which examples.

    Raises:
        InputError: If it raises anything else than that memory ran out.
    """
    try:
        if name == "sampled_loss":
            return sampled_loss(task, *arguments)
        return getattr(task, name)(*arguments)
    except InputError:
        raise
    except Exception as error:  # the user's code may raise anything
        if isinstance(error, RuntimeError) and is_out_of_memory(error):
            raise
        causes = (
            " A usual cause: inputs of another dtype than the model's weights, a batch that is not "
            "(inputs, targets), lengths that collate does not pad, or statistics of the batch, as "
            "of F.batch_norm(training=True), which a single example does not have."
        )
        raise InputError(
            f"task.{name} failed{f' on {on}' if on else ''}: {with_place(error)}."
            f"{causes if on else ''}"
        ) from error
