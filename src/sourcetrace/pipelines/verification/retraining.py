"""Retrainings in parallel processes: known ones are not repeated, the cost is said beforehand.

A process makes the task, trains, measures the queries, and keeps the outcome.
"""

import hashlib
import importlib
import json
import logging
import math
import multiprocessing
import os
import threading
import time
import traceback
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from multiprocessing import connection, parent_process
from typing import Any, Self

import numpy as np
import polars as pl
import torch

from sourcetrace.core.machine.nested import map_tensors
from sourcetrace.datasets.retrained_outcomes import RetrainedOutcome, RetrainedOutcomes
from sourcetrace.errors import InputError
from sourcetrace.interruption import Interrupted
from sourcetrace.progress import track
from sourcetrace.tasks.loading import load_task

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Job:
    """One retraining.

    Attributes:
        key: Under which the outcome is kept.
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
        specification: The task's class and arguments; every process makes its own task.
        examples: Training examples in all.
        queries: Queries.
        measured: Name of the task's method that returns them.
        outcomes: Where outcomes are kept.
        batch_size: Queries a forward pass.
        threads: torch's threads in one process.
    """

    specification: Mapping[str, Any]
    examples: int
    queries: int
    outcomes: RetrainedOutcomes
    batch_size: int
    threads: int
    measured: str = "query_examples"

    def do(self, jobs: Sequence[Job], *, workers: int) -> None:
        """Do the jobs whose outcomes are not kept yet.

        The first is timed alone, so that the others' cost is known before they start.

        Raises:
            InputError: If the user's code failed or a process died; finished outcomes are kept.
        """
        # Two groups may hold the same examples.
        missing = list({job.key: job for job in jobs if job.key not in self.outcomes}.values())
        logger.info(
            "%d retrainings of up to %d examples, %d of them known already",
            len(jobs),
            self.examples,
            len(jobs) - len(missing),
        )
        if not missing:
            return
        logger.info("Timing the first of %d retrainings", len(missing))
        workers = min(workers, len(missing))
        pool = ProcessPoolExecutor(
            workers,
            # A fork of a process in which torch has threads may hang.
            mp_context=multiprocessing.get_context("spawn"),
            initializer=_start_process,
            initargs=(self,),
        )
        try:
            first, *others = missing
            seconds = pool.submit(_retrain, first).result()
            if others:
                self._announce(first, others, seconds, workers)
            futures = [pool.submit(_retrain, job) for job in others]
            for future in track(as_completed(futures), "Retraining", total=len(futures)):
                future.result()
        except BrokenProcessPool as error:
            raise InputError(
                "A retraining process died without a word, as when memory runs out. Finished "
                "retrainings are kept: lower verification.workers or cleaning.workers, run again."
            ) from error
        except Interrupted:
            # A scheduler waits seconds, a retraining may take hours.
            for process in multiprocessing.active_children():
                process.kill()
            raise
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def _announce(self, first: Job, others: Sequence[Job], seconds: float, workers: int) -> None:
        """Log what the others will cost, if time goes with the number of examples."""
        each = seconds / (self.examples - len(first.removed))
        total = each * sum(self.examples - len(job.removed) for job in others) / workers
        finish = datetime.now().astimezone() + timedelta(seconds=total)
        logger.info(
            "The first retraining took %.1f s; %d more on %d workers take about %.0f s, until %s",
            seconds,
            len(others),
            workers,
            total,
            finish.strftime("%Y-%m-%d %H:%M"),
        )


class _Process:
    """What a worker process holds between its jobs."""

    common: Retrainings
    task: Any = None


def _start_process(common: Retrainings) -> None:
    """Prepare a worker process; it ends when the process that started it is gone."""
    _Process.common = common
    torch.set_num_threads(common.threads)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _retrain(job: Job) -> float:
    """Do one retraining; return its seconds.

    Raises:
        InputError: If the user's code failed: not every exception can be sent to a process.
    """
    common = _Process.common
    try:
        if _Process.task is None:
            _Process.task = load_task(common.specification)
        outcome = _measure(_Process.task, job, common)
    except Exception as error:  # the user's code may raise anything
        what = str(error)
        if not isinstance(error, InputError):
            what = f"{type(error).__name__}: {error} ({_place(error, common)})"
        raise InputError(
            f"Retraining {job.name} failed: {what}. Correct the task; finished retrainings are "
            "kept."
        ) from None
    common.outcomes.put(job.key, outcome)
    return outcome.seconds


def _measure(task: Any, job: Job, common: Retrainings) -> RetrainedOutcome:
    """Train without the removed examples and measure every query."""
    started = time.perf_counter()
    kept = np.delete(np.arange(common.examples), job.removed).tolist()
    trained = task.relabelled(job.labels) if job.labels else task
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
    return RetrainedOutcome(seconds, measurements, predicted, losses if finite else None)


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
