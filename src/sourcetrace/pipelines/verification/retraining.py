"""One retraining: the task is trained without some examples, and the queries are measured.

The first process of a run, which has Kedro's and MLflow's, has another one train.
"""

import hashlib
import importlib
import json
import logging
import math
import os
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property, partial
from multiprocessing import active_children, connection, get_context, parent_process
from typing import Any, Self

import numpy as np
import polars as pl
import torch

from sourcetrace.core.machine.nested import map_tensors
from sourcetrace.errors import InputError
from sourcetrace.pipelines.shared.device import pick_device
from sourcetrace.tasks.loading import load_task
from sourcetrace.work.ranks import as_alone
from sourcetrace.work.unit import Unit

logger = logging.getLogger(__name__)

Outcome = dict[str, Any]
"""A retraining's columns of `schemas.VerificationOutcomes`."""

_TRIES = 2
"""Of the first process with a retraining in which its other process dies."""


@dataclass(frozen=True)
class Job:
    """One retraining.

    Attributes:
        key: Digest of all that decides the outcome.
        group: Of examples, in the plan.
        seed: Handed to `train`.
        removed: Numbers of the examples left out.
        labels: Number -> label of the examples that get another.
    """

    key: str
    group: str
    seed: int
    removed: "np.ndarray[Any, Any]"
    labels: Mapping[int, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """What a message calls it."""
        return f"{self.group}, seed {self.seed}"

    @cached_property
    def unit(self) -> Unit:
        """What is kept of it, for any audit."""
        return Unit("retraining", self.key, {"retraining": self.key})

    @classmethod
    def of_plan(cls, plan: pl.DataFrame, *, identity: str, seeds: range) -> list[Self]:
        """Return a job for every group and seed, in the order of the plan.

        Args:
            plan: `schemas.VerificationPlan` or `schemas.CleaningPlan`.
            identity: As `MadeOf.retraining_part` returns it.
            seeds: Of every group.
        """
        jobs = []
        rows = plan.drop("removed").iter_rows(named=True)
        for row, removed in zip(rows, plan["removed"], strict=True):
            numbers = np.array(removed, dtype="<i4")
            whole = hashlib.sha256(f"{identity}\0".encode() + numbers.tobytes())
            labels = dict(zip(row.get("relabelled", ()), row.get("new_labels", ()), strict=True))
            if labels:
                whole.update(json.dumps(list(labels.items())).encode())
            for seed in seeds:
                key = hashlib.sha256(f"{whole.hexdigest()}\0{seed}".encode()).hexdigest()
                jobs.append(cls(key, row["group"], seed, numbers, labels))
        return jobs


@dataclass(frozen=True)
class Retrainings:
    """What all retrainings have in common.

    Attributes:
        specification: The task's class and arguments, of which another process makes its own.
        examples: Training examples in all.
        queries: Queries.
        batch_size: Queries a forward pass.
        threads: torch's threads in one process.
        measured: Name of the task's method that returns the queries.
    """

    specification: Mapping[str, Any]
    examples: int
    queries: int
    batch_size: int
    threads: int
    measured: str = "query_examples"


@contextmanager
def trainer(common: Retrainings, rank: int, task: Any) -> Iterator[Callable[[Job], Outcome]]:
    """Yield what retrains in this process, or for the first in another, whose end is not its own.

    Args:
        common: Of all retrainings.
        rank: Of this process.
        task: That it has.
    """
    if rank > 0:
        _prepare(common, task)
        yield _retrain
        return
    # A fork of a process in which torch has threads may hang.
    start = partial(ProcessPoolExecutor, 1, get_context("spawn"), _prepare, (common,))
    pool = start()

    def retrain(job: Job) -> Outcome:
        nonlocal pool
        for _ in range(_TRIES):
            with suppress(BrokenProcessPool):
                return pool.submit(_retrain, job).result()
            logger.warning("A process died in retraining %s, as when memory runs out", job.name)
            pool = start()
        raise InputError(
            f"Retraining {job.name}: {_TRIES} processes died without a word, as when memory runs "
            "out. Finished retrainings are kept: lower verification.workers or cleaning.workers, "
            "run again."
        )

    try:
        yield retrain
    except BaseException:
        # A scheduler waits seconds, a retraining may take hours.
        for process in active_children():
            process.kill()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


class _Process:
    """What a process that trains holds between its jobs."""

    common: Retrainings
    task: Any = None


def _prepare(common: Retrainings, task: Any = None) -> None:
    """Prepare this process to train; it ends when one that spawned it is gone.

    Args:
        common: Of all retrainings.
        task: If this process has one.
    """
    _Process.common, _Process.task = common, task
    torch.set_num_threads(common.threads)
    device = pick_device("auto")
    if device.index is not None:
        torch.cuda.set_device(device)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _retrain(job: Job) -> Outcome:
    """Do one retraining.

    Raises:
        InputError: If the user's code failed: not every exception can be sent to a process.
    """
    common = _Process.common
    try:
        if _Process.task is None:
            _Process.task = load_task(common.specification)
        return _measure(_Process.task, job, common)
    except Exception as error:  # the user's code may raise anything
        what = str(error)
        if not isinstance(error, InputError):
            what = f"{type(error).__name__}: {error} ({_place(error, common)})"
        raise InputError(
            f"Retraining {job.name} failed: {what}. Correct the task; finished retrainings are "
            "kept."
        ) from None


def _measure(task: Any, job: Job, common: Retrainings) -> Outcome:
    """Train without the removed examples and measure every query."""
    started = time.perf_counter()
    kept = np.delete(np.arange(common.examples), job.removed).tolist()
    trained = task.relabelled(job.labels) if job.labels else task
    with as_alone():
        model = trained.train(kept, seed=job.seed)
    if not isinstance(model, torch.nn.Module):
        raise InputError(
            f"task.train returned {type(model).__name__}; expected the trained torch.nn.Module."
        )
    model.eval()
    parameter = next(model.parameters(), None)
    device = torch.device("cpu") if parameter is None else parameter.device
    items = getattr(task, common.measured)()
    describe = getattr(task, "describe", None)
    measurements: list[float] = []
    losses: list[float] = []
    predicted: list[str] | None = []
    for start in range(0, common.queries, common.batch_size):
        stop = min(start + common.batch_size, common.queries)
        batch = task.collate([items[i] for i in range(start, stop)])
        batch = map_tensors(batch, lambda tensor: tensor.to(device))
        with torch.no_grad():
            outputs = task.forward(model, batch)
            values = task.measurement(outputs, batch).double().cpu()
            losses += task.train_loss(outputs, batch).double().cpu().tolist()
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
    seconds = time.perf_counter() - started
    finite = all(map(math.isfinite, losses))
    return {
        "seconds": seconds,
        "measurements": measurements,
        "predicted_labels": predicted,
        "losses": losses if finite else None,
    }


def _place(error: Exception, common: Retrainings) -> str:
    """Return the file and line of the task's module, or the last one, where an error arose."""
    frames = traceback.extract_tb(error.__traceback__)
    module = importlib.import_module(str(common.specification["class"]).rsplit(".", 1)[0])
    own = [frame for frame in frames if frame.filename == module.__file__]
    frame = (own or list(frames))[-1]
    return f"{frame.filename}, line {frame.lineno}"


def _end_with_parent() -> None:
    """End the process once its parent is gone: one that was killed cannot say goodbye."""
    parent = parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os._exit(1)
