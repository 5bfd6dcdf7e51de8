"""Retrainings in parallel processes: known ones are not repeated, the cost is said beforehand."""

import hashlib
import logging
import multiprocessing
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from datetime import datetime, timedelta

import polars as pl

from sourcetrace.audit.identity.made_of import MadeOf, digest_of
from sourcetrace.datasets.retrained_outcomes import RetrainedOutcomes
from sourcetrace.errors import InputError
from sourcetrace.parameters import TaskParameters
from sourcetrace.pipelines.shared.inputs import Ingested
from sourcetrace.pipelines.verification.worker import Failure, Job, Setting, retrain, start_process
from sourcetrace.progress import track

logger = logging.getLogger(__name__)


def fingerprint(parameters: TaskParameters, ingested: Ingested) -> str:
    """Return a digest of what every retraining's outcome depends on.

    The task's class, arguments and module, its own `recipe`, and the data. What other modules hold
    it cannot see.
    """
    recipe = getattr(ingested.task, "recipe", None)
    return digest_of([MadeOf.task_part(parameters), recipe, ingested.data])


def make_jobs(plan: pl.DataFrame, *, identity: str, first_seed: int, seeds: int) -> list[Job]:
    """Return a job for every group and seed, in the order of the plan."""
    jobs = []
    for group, removed in plan.select("group", "removed").iter_rows():
        numbers = pl.Series(removed, dtype=pl.Int32).to_numpy()
        content = hashlib.sha256(f"{identity}\0".encode() + numbers.astype("<i4").tobytes())
        for seed in range(first_seed, first_seed + seeds):
            key = hashlib.sha256(f"{content.hexdigest()}\0{seed}".encode()).hexdigest()
            jobs.append(Job(key, f"{group}, seed {seed}", numbers, seed))
    return jobs


def run_jobs(
    jobs: Sequence[Job], setting: Setting, outcomes: RetrainedOutcomes, *, workers: int
) -> None:
    """Do the jobs whose outcomes are not kept yet.

    The first is timed alone, so that the others' cost is known before they start.

    Raises:
        InputError: If the user's code failed or a process died; finished outcomes are kept.
    """
    # Two groups may hold the same examples.
    missing = list({job.key: job for job in jobs if outcomes.get(job.key) is None}.values())
    logger.info(
        "%d retrainings of up to %d examples, %d of them known already",
        len(jobs),
        setting.examples,
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
        initializer=start_process,
        initargs=(setting,),
    )
    try:
        first, *others = missing
        seconds = _checked(pool.submit(retrain, first).result())
        if others:
            _announce(first, others, seconds, setting.examples, workers)
        futures = [pool.submit(retrain, job) for job in others]
        for future in track(as_completed(futures), "Retraining", total=len(futures)):
            _checked(future.result())
    except BrokenProcessPool as error:
        raise InputError(
            "A retraining process died without a word, as when memory runs out. Finished "
            "retrainings are kept: lower verification.workers and run the verification again."
        ) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _announce(
    first: Job, others: Sequence[Job], seconds: float, examples: int, workers: int
) -> None:
    """Log what the others will cost, if time goes with the number of examples."""
    each = seconds / (examples - len(first.removed))
    total = each * sum(examples - len(job.removed) for job in others) / workers
    finish = datetime.now().astimezone() + timedelta(seconds=total)
    logger.info(
        "The first retraining took %.1f s; %d more on %d workers take about %.0f s, until %s",
        seconds,
        len(others),
        workers,
        total,
        finish.strftime("%Y-%m-%d %H:%M"),
    )


def _checked(result: float | Failure) -> float:
    if isinstance(result, Failure):
        raise InputError(
            f"Retraining {result.job} failed: {result.message}. Correct the task; finished "
            "retrainings are kept."
        )
    return result
