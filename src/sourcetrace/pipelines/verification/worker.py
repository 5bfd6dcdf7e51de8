"""What one process does: make the task, train, measure the queries, keep the outcome."""

import importlib
import os
import threading
import time
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from multiprocessing import connection, parent_process
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sourcetrace.core.machine.nested import to_device
from sourcetrace.datasets.retrained_outcomes import RetrainedOutcome, RetrainedOutcomes
from sourcetrace.errors import InputError
from sourcetrace.tasks import Task
from sourcetrace.tasks.loading import load_task


@dataclass(frozen=True)
class Setting:
    """What all retrainings have in common.

    Attributes:
        specification: The task's class and arguments; every process makes its own task.
        examples: Training examples in all.
        queries: Queries.
        folder: Where outcomes are kept.
        batch_size: Queries a forward pass.
        threads: torch's threads in one process.
    """

    specification: Mapping[str, Any]
    examples: int
    queries: int
    folder: Path
    batch_size: int
    threads: int


@dataclass(frozen=True)
class Job:
    """One retraining.

    Attributes:
        key: Under which the outcome is kept.
        name: What a message calls it.
        removed: Numbers of the examples left out.
        seed: Handed to `train`.
    """

    key: str
    name: str
    removed: "np.ndarray[Any, Any]"
    seed: int


@dataclass(frozen=True)
class Failure:
    """An exception of the user's code, as text: not every exception can be sent to a process."""

    job: str
    message: str


class _Process:
    """What a worker process holds between its jobs."""

    setting: Setting
    task: Task | None = None


def start_process(setting: Setting) -> None:
    """Prepare a worker process; it ends when the process that started it is gone."""
    _Process.setting = setting
    torch.set_num_threads(setting.threads)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def retrain(job: Job) -> float | Failure:
    """Do one retraining; return its seconds, or what went wrong in the user's code."""
    setting = _Process.setting
    try:
        if _Process.task is None:
            _Process.task = load_task(setting.specification)
        started = time.perf_counter()
        outcome = _measure(_Process.task, job, setting, started)
    except InputError as error:
        return Failure(job.name, str(error))
    except Exception as error:  # the user's code may raise anything
        return Failure(job.name, f"{type(error).__name__}: {error} ({_place(error, setting)})")
    RetrainedOutcomes(setting.folder).put(job.key, outcome)
    return outcome.seconds


def _measure(task: Any, job: Job, setting: Setting, started: float) -> RetrainedOutcome:
    """Train without the removed examples and measure every query."""
    kept = np.delete(np.arange(setting.examples), job.removed).tolist()
    model = task.train(kept, seed=job.seed)
    if not isinstance(model, torch.nn.Module):
        raise InputError(
            f"task.train returned {type(model).__name__}; expected the trained torch.nn.Module."
        )
    model.eval()
    parameter = next(model.parameters(), None)
    device = torch.device("cpu") if parameter is None else parameter.device
    items = task.query_examples()
    describe = getattr(task, "describe", None)
    measurements: list[float] = []
    predicted: list[str] | None = []
    for start in range(0, setting.queries, setting.batch_size):
        stop = min(start + setting.batch_size, setting.queries)
        batch = to_device(task.collate([items[i] for i in range(start, stop)]), device)
        with torch.no_grad():
            outputs = task.forward(model, batch)
            values = task.measurement(outputs, batch).double().cpu()
            described = describe(outputs, batch) if describe is not None else {}
        if values.shape != (stop - start,) or not bool(values.isfinite().all()):
            raise InputError(
                f"After retraining, task.measurement gave shape {list(values.shape)} for "
                f"{stop - start} queries, or NaN. Let it return one finite value a query, and "
                "check that train() does not diverge on fewer examples."
            )
        measurements += values.tolist()
        labels = described.get("predicted_label")
        predicted = None if predicted is None or labels is None else [*predicted, *map(str, labels)]
    return RetrainedOutcome(time.perf_counter() - started, measurements, predicted)


def _place(error: Exception, setting: Setting) -> str:
    """Return the file and line of the task's module, or the last one, where an error arose."""
    frames = traceback.extract_tb(error.__traceback__)
    module = importlib.import_module(str(setting.specification["class"]).rsplit(".", 1)[0])
    own = [frame for frame in frames if frame.filename == module.__file__]
    frame = (own or list(frames))[-1]
    return f"{frame.filename}, line {frame.lineno}"


def _end_with_parent() -> None:
    """End the process once its parent is gone: one that was killed cannot say goodbye."""
    parent = parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os._exit(1)
