"""A plan of retrainings, done: known ones are not repeated, the cost is said beforehand."""

import json
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl

from sourcetrace.audit.identity.data_digest import data_digest
from sourcetrace.audit.identity.made_of import MadeOf
from sourcetrace.datasets.entries import with_entries
from sourcetrace.datasets.gradient_cache import GradientCache
from sourcetrace.errors import InputError
from sourcetrace.parameters import (
    CleaningParameters,
    LaunchParameters,
    TaskParameters,
    VerificationParameters,
)
from sourcetrace.pipelines.set_up.grid import last_batch_size
from sourcetrace.pipelines.set_up.launch import available_cores, cores_each
from sourcetrace.pipelines.shared.inputs import Ingested
from sourcetrace.pipelines.shared.set_aside import SettingAside
from sourcetrace.pipelines.verification.retraining import Job, Outcome, Retrainings, trainer
from sourcetrace.schemas.verification import VerificationOutcomes
from sourcetrace.work.crew import CREW
from sourcetrace.work.ledger import Ledger
from sourcetrace.work.ranks import Rank
from sourcetrace.work.team import Team
from sourcetrace.work.unit import Unit

logger = logging.getLogger(__name__)

_FILE = "outcome.json"
"""Of a unit."""

_QUERIES = 256
"""A forward pass, where no audit has chosen; without gradients they take little."""


def retrain_plan(
    plan: pl.DataFrame,
    ingested: Ingested,
    task: TaskParameters,
    outcomes: Ledger,
    cache: GradientCache,
    launch: LaunchParameters,
    parameters: VerificationParameters | CleaningParameters,
    *,
    stage: str,
    held_out: bool = False,
) -> pl.DataFrame:
    """Return `schemas.VerificationOutcomes`, group by group and seed by seed.

    Args:
        plan: `schemas.VerificationPlan` or `schemas.CleaningPlan`.
        ingested: What the audit read.
        task: Of which a process that has none makes its own.
        outcomes: Where they are kept.
        cache: Which knows the batch size that an audit has chosen.
        launch: When a process hangs.
        parameters: Seeds of every group, and processes.
        stage: To which others are called.
        held_out: Whether the task's held-out examples are measured instead of the queries.

    Raises:
        InputError: If the user's code failed or a process died; finished outcomes are kept.
    """
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
    seeds = range(parameters.seed, parameters.seed + parameters.seeds)
    jobs = Job.of_plan(plan, identity=identity, seeds=seeds)
    # Two groups may hold the same examples.
    units = {job.unit: job for job in jobs}
    team = _team(units, outcomes, launch, parameters.workers, stage)
    retrainings = Retrainings(
        specification=with_entries(task.model_dump(by_alias=True)),
        examples=ingested.train_table.height,
        queries=queries,
        batch_size=last_batch_size(cache.folder) or _QUERIES,
        threads=cores_each(team.size),
        measured="holdout_examples" if held_out else "query_examples",
    )

    def work() -> pl.DataFrame:
        with trainer(retrainings, team.rank, made) as retrain:
            _do(units, retrain, team, retrainings.examples)
        kept = [json.loads((outcomes.folder(job.unit) / _FILE).read_text()) for job in jobs]
        return VerificationOutcomes.frame(
            {"group": job.group, "seed": job.seed, **one}
            for job, one in zip(jobs, kept, strict=True)
        )

    return team.until_sound(work)


def _team(
    units: Mapping[Unit, Job],
    outcomes: Ledger,
    launch: LaunchParameters,
    workers: int | None,
    stage: str,
) -> Team:
    """Return the processes that somebody else started, or at most `workers` of this machine."""
    rank = Rank.here()
    outcomes.refresh()
    if rank.number == 0:
        _take_over(outcomes, units)
    missing = len(outcomes.missing(units))
    size = rank.size
    if size == 1:  # others are not started yet
        outcomes.tidy()
        size = max(1, min(workers or available_cores(), missing))

    def call(_: str) -> None:
        CREW.call(stage, size=size, threads=cores_each(size))

    return Team(outcomes, rank.number, size, launch.timeout_seconds, call)


def _take_over(outcomes: Ledger, units: Iterable[Unit]) -> None:
    """Make units of what versions without them kept: `<key>.json` in the folder."""
    for unit in outcomes.missing(units):
        with suppress(OSError, ValueError, KeyError):  # there is none, or it is damaged
            kept = json.loads((outcomes.root / f"{unit.name}.json").read_text())
            outcomes.write(unit, partial(_keep, kept))


def _do(
    units: Mapping[Unit, Job], retrain: Callable[[Job], Outcome], team: Team, examples: int
) -> None:
    """Return when all outcomes are kept; the first is timed alone."""

    def do(unit: Unit, folder: Path) -> dict[str, Any]:
        return _keep(retrain(units[unit]), unit, folder)

    missing = team.ledger.missing(units) if team.rank == 0 else []
    logger.info(
        "%d retrainings of up to %d examples, %d of them known already",
        len(units),
        examples,
        len(units) - len(missing),
    )
    for unit in missing[:1]:
        logger.info("Timing the first of %d retrainings", len(missing))
        Team(team.ledger).run([unit], do, "Retraining once")  # for as long as it takes
        _announce(
            team.ledger.facts(unit)["seconds"],
            [examples - len(units[one].removed) for one in missing],
            team.size,
        )
    team.run(list(units), do, "Retraining")


def _announce(seconds: float, examples: Sequence[int], workers: int) -> None:
    """Log what those after the first will cost, if time goes with the number of examples."""
    first, *others = examples
    total = seconds / first * sum(others) / workers
    finish = datetime.now().astimezone() + timedelta(seconds=total)
    logger.info(
        "The first retraining took %.1f s; %d more on %d workers take about %.0f s, until %s",
        seconds,
        len(others),
        workers,
        total,
        finish.strftime("%Y-%m-%d %H:%M"),
    )


def _keep(outcome: Outcome, _: Unit, folder: Path) -> dict[str, Any]:
    (folder / _FILE).write_text(json.dumps(outcome, allow_nan=False))
    return {"seconds": outcome["seconds"]}


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
