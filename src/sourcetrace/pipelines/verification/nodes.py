"""Train again without some examples, and hold what happens against what the scores said."""

from typing import Any

import numpy as np
import polars as pl
import torch
from kedro.pipeline import Pipeline

from sourcetrace.datasets.gradient_cache import GradientCache
from sourcetrace.datasets.score_files import ScoreFiles
from sourcetrace.errors import InputError
from sourcetrace.parameters import LaunchParameters, TaskParameters, VerificationParameters
from sourcetrace.pipelines.shared.inputs import Ingested, check_inputs
from sourcetrace.pipelines.shared.metrics import logged
from sourcetrace.pipelines.shared.step import step
from sourcetrace.pipelines.verification.groups import Group
from sourcetrace.pipelines.verification.measures import Measure, Retrained
from sourcetrace.pipelines.verification.retrained import check_trainable, retrain_plan
from sourcetrace.schemas.table import first_of
from sourcetrace.schemas.verification import VerificationPlan
from sourcetrace.tasks import Task
from sourcetrace.work.ledger import Ledger


def plan_retrainings(
    score_files: ScoreFiles,
    audit_summary: dict[str, Any],
    task: Task,
    train_table: pl.DataFrame,
    query_table: pl.DataFrame,
    query_signals: pl.DataFrame,
    verification: VerificationParameters,
) -> pl.DataFrame:
    """Return which examples each retraining leaves out; refuse what will not work."""
    score_files.require()
    check_trainable(task)
    digest = score_files.digest_in(audit_summary)
    # A regression's target is no class; its labels would leave nothing to draw from.
    has_classes = query_signals["given_label_probability"].is_not_null().any()
    # Examples of the same stages, as one text: what belongs to several is a kind of its own.
    stages = train_table["stage"].list.join("\0")
    classes = stages
    if has_classes:
        classes = classes + "\0\0" + train_table["label"].fill_null("")
    candidates = np.arange(query_table.height)
    if has_classes:
        right = (query_signals["predicted_label"] == query_table["label"]).fill_null(value=False)
        # A wrong prediction that changes says little.
        candidates = candidates[right.to_numpy()]
    random = np.random.default_rng([verification.seed, query_table.height])
    count = min(verification.removal_queries, len(candidates))
    groups = [
        Group("all", "all", None, np.empty(0, dtype=np.int64)),
        *Group.subsets(stages, verification),
        *Group.removals(
            score_files,
            np.sort(random.choice(candidates, count, replace=False)).tolist(),
            classes,
            better=1 if task.measurement_higher_is_better else -1,
            verification=verification,
        ),
    ]
    return VerificationPlan.frame(
        (group.name, group.kind, group.query, group.removed, digest) for group in groups
    )


def retrain_groups(
    ingested: Ingested,
    task: TaskParameters,
    verification_plan: pl.DataFrame,
    retrained_outcomes: Ledger,
    verification: VerificationParameters,
    launch: LaunchParameters,
    gradient_cache: GradientCache,
) -> pl.DataFrame:
    """Return how the queries came out of every retraining, group by group and seed by seed."""
    return retrain_plan(
        verification_plan,
        ingested,
        task,
        retrained_outcomes,
        gradient_cache,
        launch,
        verification,
        stage="verification",
    )


def measure_trust(
    score_files: ScoreFiles,
    verification_plan: pl.DataFrame,
    verification_outcomes: pl.DataFrame,
    train_table: pl.DataFrame,
    query_table: pl.DataFrame,
    query_signals: pl.DataFrame,
    query_influence: pl.LazyFrame,
) -> tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame, dict[str, Any]]:
    """Return the summary, a row a query, a row a removal, and the metrics for MLflow."""
    digest = verification_plan["scores_digest"][0]
    if score_files.digest() != digest:
        raise InputError(
            "The scores have changed since the retrainings were planned. Run "
            "`kedro run --pipelines verification` as a whole; what is known is not trained again."
        )
    # Of every group, seed and query.
    shape = (verification_plan.height, -1, query_table.height)
    labels = None
    has_classes = query_signals["given_label_probability"].is_not_null().any()
    if has_classes and verification_outcomes["predicted_labels"].null_count() == 0:
        labels = np.array(verification_outcomes["predicted_labels"].to_list()).reshape(shape)
    measured = np.array(verification_outcomes["measurements"].to_list()).reshape(shape)
    retrained = Retrained(
        plan=verification_plan,
        predicted=torch.from_numpy(score_files.sums_over(verification_plan["removed"])),
        measured=torch.from_numpy(measured),
        labels=labels,
        examples=train_table.height,
    )
    per_query, measures = retrained.subset_measures()
    audited = query_signals["measurement"].to_torch()
    changes = retrained.removal_table(query_table["example_id"])
    summary = Measure.table(
        [*measures, *retrained.recipe_measures(audited), *Measure.of_removals(changes)],
        method=first_of(query_influence, "method"),
        scores_digest=digest,
    )
    table = pl.DataFrame({"query_id": query_table["example_id"], "lds": per_query.tolist()})
    return summary, table, changes, _metrics(summary)


def _metrics(summary: pl.DataFrame) -> dict[str, Any]:
    found: dict[str, float | None] = {}
    for row in summary.iter_rows(named=True):
        name = row["measure"] + ("" if row["removed"] is None else f"_{row['removed']}")
        found |= {name: row["value"], f"{name}_low": row["low"], f"{name}_high": row["high"]}
    return logged(found)


PIPELINE = Pipeline(
    [
        step(check_inputs, "ingested"),
        step(plan_retrainings, "verification_plan"),
        step(retrain_groups, "verification_outcomes"),
        step(
            measure_trust,
            [
                "verification_summary",
                "verification_queries",
                "verification_removals",
                "verification_metrics",
            ],
        ),
    ]
)
