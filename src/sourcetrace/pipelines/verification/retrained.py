"""A plan of retrainings, done: what is known already is not trained again."""

from dataclasses import astuple
from typing import Any

import polars as pl

from sourcetrace.audit.identity.data_digest import data_digest
from sourcetrace.audit.identity.made_of import MadeOf
from sourcetrace.datasets.entries import with_entries
from sourcetrace.datasets.gradient_cache import GradientCache
from sourcetrace.datasets.retrained_outcomes import RetrainedOutcomes
from sourcetrace.errors import InputError
from sourcetrace.parameters import GradientParameters, TaskParameters
from sourcetrace.pipelines.shared.grid import last_batch_size
from sourcetrace.pipelines.shared.inputs import Ingested
from sourcetrace.pipelines.shared.launch import available_cores
from sourcetrace.pipelines.shared.set_aside import SettingAside
from sourcetrace.pipelines.verification.retraining import Job, Retrainings
from sourcetrace.schemas.verification import VerificationOutcomes

_QUERIES = 256
"""A forward pass, where no audit has chosen; without gradients they take little."""


def retrain_plan(
    plan: pl.DataFrame,
    ingested: Ingested,
    task: TaskParameters,
    outcomes: RetrainedOutcomes,
    gradients: GradientParameters,
    cache: GradientCache,
    *,
    seeds: range,
    workers: int | None,
    held_out: bool = False,
) -> pl.DataFrame:
    """Return `schemas.VerificationOutcomes`, group by group and seed by seed.

    Args:
        plan: `schemas.VerificationPlan` or `schemas.CleaningPlan`.
        ingested: What the audit read.
        task: Of which every process makes its own.
        outcomes: Where they are kept.
        gradients: Of which the batch size counts.
        cache: Which knows the batch size that an audit has chosen.
        seeds: Of every group.
        workers: Processes; None means one a CPU core.
        held_out: Whether the task's held-out examples are measured instead of the queries.
    """
    cores = available_cores()
    workers = workers or cores
    batch_size = gradients.batch_size
    if batch_size == "auto":
        batch_size = last_batch_size(cache.folder) or _QUERIES
    made: Any = ingested.task
    recipe = getattr(made, "recipe", None)
    identity = MadeOf.retraining_part(task, recipe=recipe, data=ingested.data)
    queries = ingested.query_table.height
    if held_out:
        examples, table = made.holdout_examples(), made.holdout_table()
        identity, queries = f"{identity}\0{data_digest(examples, table)}", table.height
    gone = SettingAside(ingested, cache.folder, task.set_aside).refresh()
    plan = plan.with_columns(
        pl.col("removed").list.set_union(pl.lit(gone, plan["removed"].dtype)).list.sort()
    )
    jobs = Job.of_plan(plan, identity=identity, seeds=seeds)
    Retrainings(
        specification=with_entries(task.model_dump(by_alias=True)),
        examples=ingested.train_table.height,
        queries=queries,
        outcomes=outcomes,
        batch_size=batch_size,
        threads=max(1, cores // workers),
        measured="holdout_examples" if held_out else "query_examples",
    ).do(jobs, workers=workers)
    return VerificationOutcomes.frame(
        (job.group, job.seed, *astuple(outcomes[job.key])) for job in jobs
    )


def check_trainable(task: Any) -> None:
    """Refuse a task that cannot be trained again.

    Raises:
        InputError: If it has no `train`.
    """
    if not callable(getattr(task, "train", None)):
        raise InputError(
            f"{type(task).__name__} has no train(indices, *, seed), so nothing can be trained "
            "again. Add it: it trains build_model() as the audited model was trained, on the "
            "training examples with these numbers, and returns the model; "
            "sourcetrace.tasks.train_with_sgd is a plain loop."
        )
