"""Train with and without the changes, with as many at random, and compare seed by seed."""

from typing import Any

import polars as pl
from kedro.pipeline import Pipeline

from sourcetrace.datasets.gradient_cache import GradientCache
from sourcetrace.datasets.score_files import ScoreFiles
from sourcetrace.errors import InputError
from sourcetrace.parameters import CleaningParameters, LaunchParameters, TaskParameters
from sourcetrace.pipelines.shared.inputs import Ingested, check_inputs
from sourcetrace.pipelines.shared.metrics import logged
from sourcetrace.pipelines.shared.step import step
from sourcetrace.pipelines.verification.retrained import check_trainable, retrain_plan
from sourcetrace.pipelines.verify_cleaning.changes import Changes
from sourcetrace.pipelines.verify_cleaning.halves import (
    held_out_table,
    is_split,
    measuring,
    suggest_with_half,
)
from sourcetrace.pipelines.verify_cleaning.measures import measured_gains
from sourcetrace.reporting.cleaning import MeasuredCleaning
from sourcetrace.schemas.cleaned import CleaningPlan
from sourcetrace.work.ledger import Ledger


def plan_cleaning(
    score_files: ScoreFiles,
    audit_summary: dict[str, Any],
    ingested: Ingested,
    cleaning_suggestions: pl.DataFrame,
    cleaned_data: pl.DataFrame,
    cleaning: CleaningParameters,
) -> pl.DataFrame:
    """Return what each retraining leaves out and relabels; refuse what will not work."""
    task, train_table = ingested.task, ingested.train_table
    score_files.require()
    check_trainable(task)
    digest = score_files.digest_in(audit_summary)
    if cleaning.of == "decisions":
        changes = Changes.decided(train_table, cleaned_data, cleaning_suggestions)
    else:
        changes = Changes.suggested(train_table, cleaning_suggestions)
    if not changes.removed and not changes.labels:
        half = " of half of the queries" if is_split(task, cleaning) else ""
        raise InputError(
            f"The {cleaning.of}{half} remove and relabel nothing, so there is no gain to measure."
        )
    if changes.labels and not callable(getattr(task, "relabelled", None)):
        raise InputError(
            f"{type(task).__name__} has no relabelled(labels), so it cannot be trained with the "
            f"new labels of {len(changes.labels)} examples. Add it: it returns the task with other "
            "labels, {number: label}, of its training examples; adapters of data have it."
        )
    has_classes = cleaning_suggestions["given_label_probability"].is_not_null().any()
    classes = train_table["label"] if has_classes else train_table["stage"].list.join("\0")
    groups = {"all": Changes([], {}), "cleaned": changes}
    for number in range(cleaning.random):
        drawn = changes.at_random(classes, seed=[cleaning.seed, number])
        groups[f"random-{number:03d}"] = drawn
    return CleaningPlan.frame(
        (name, name.split("-")[0], one.removed, list(one.labels), list(one.labels.values()), digest)
        for name, one in groups.items()
    )


def retrain_cleaned(
    ingested: Ingested,
    task: TaskParameters,
    cleaning_plan: pl.DataFrame,
    retrained_outcomes: Ledger,
    cleaning: CleaningParameters,
    launch: LaunchParameters,
    gradient_cache: GradientCache,
) -> pl.DataFrame:
    """Return how the queries, or the held-out examples, came out of every retraining."""
    return retrain_plan(
        cleaning_plan,
        ingested,
        task,
        retrained_outcomes,
        gradient_cache,
        launch,
        cleaning,
        stage="verify_cleaning",
        held_out=held_out_table(ingested.task) is not None,
    )


def measure_cleaning(
    score_files: ScoreFiles,
    cleaning_plan: pl.DataFrame,
    cleaning_outcomes: pl.DataFrame,
    ingested: Ingested,
    query_signals: pl.DataFrame,
    cleaning: CleaningParameters,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the measured gain beside the predicted one, and the metrics for MLflow.

    The scores predict what removal does, of the queries; what is relabelled counts as removed.
    """
    _refuse_ignored_labels(cleaning_plan, cleaning_outcomes)
    plan = cleaning_plan.filter(kind="cleaned").row(0, named=True)
    changed = pl.Series([sorted([*plan["removed"], *plan["relabelled"]])])
    held_out = held_out_table(ingested.task)
    table = ingested.query_table if held_out is None else held_out
    split = is_split(ingested.task, cleaning)
    predicted = score_files.sums_over(changed)[0]
    if split:
        kept = measuring(table["example_id"])
        places = kept.arg_true().to_list()
        table, predicted = table.filter(kept), predicted[places]
        of_queries = pl.col("measurements", "predicted_labels", "losses")
        cleaning_outcomes = cleaning_outcomes.with_columns(of_queries.list.gather(places))
    sign = 1 if ingested.task.measurement_higher_is_better else -1
    # A regression's predictions are hardly ever its labels, to the digit.
    has_classes = query_signals["given_label_probability"].is_not_null().any()
    labels = table["label"] if has_classes and "label" in table.columns else None
    gains = measured_gains(cleaning_outcomes, labels, sign=sign)
    found = MeasuredCleaning(
        scores_digest=plan["scores_digest"],
        of=cleaning.of,
        removed=len(plan["removed"]),
        relabelled=len(plan["relabelled"]),
        seeds=cleaning.seeds,
        random=cleaning.random,
        held_out=held_out is not None,
        examples=table.height,
        predicted=sign * float(predicted.mean()),
        gains=gains,
        split=split,
    )
    metrics = {f"{one.measure}_{end}": getattr(one, end) for one in gains for end in _ENDS}
    return found.to_json(), logged({**metrics, "predicted": found.predicted})


def _refuse_ignored_labels(plan: pl.DataFrame, outcomes: pl.DataFrame) -> None:
    """Refuse outcomes in which new labels alone, of any group, changed no bit with any seed."""
    found = dict(outcomes.group_by("group").agg(pl.col("measurements").sort_by("seed")).iter_rows())
    for row in plan.filter(pl.col("relabelled").list.len() > 0).iter_rows(named=True):
        if not row["removed"] and found[row["group"]] == found["all"]:
            raise InputError(
                "Trained with other labels, the model came out the same with every seed, so that "
                "train() does not read them. Let it take labels from train_examples(), which "
                "relabelled() changes, and let `recipe` say what it reads from elsewhere."
            )


_ENDS = ("gain", "low", "high", "over_random")


PIPELINE = Pipeline(
    [
        step(check_inputs, "ingested"),
        step(suggest_with_half, "cleaning_suggestions"),
        step(plan_cleaning, "cleaning_plan"),
        step(retrain_cleaned, "cleaning_outcomes"),
        step(measure_cleaning, ["cleaning_result", "cleaning_metrics"]),
    ]
)
