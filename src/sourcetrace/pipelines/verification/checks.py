"""What is refused before anything is trained."""

from typing import Any

import polars as pl

from sourcetrace.datasets.score_files import ScoreFiles
from sourcetrace.errors import InputError
from sourcetrace.tasks import Task


def check_scores(
    score_files: ScoreFiles, task: Task, train_table: pl.DataFrame, query_table: pl.DataFrame
) -> None:
    """Refuse scores of other examples or queries than the task's.

    Raises:
        InputError: Saying which differ.
    """
    names: list[str] = []
    for ids, scores in score_files.blocks():
        names += ids.to_list()
        width = scores.shape[1]
        asked = len(task.query_examples())  # type: ignore[arg-type]
        if not width == query_table.height == asked:
            raise InputError(
                f"The scores are for {width} queries, the query table has {query_table.height} "
                f"and the task {asked}. Run `kedro run --pipelines audit` with this task first."
            )
    if names != train_table["example_id"].to_list():
        raise InputError(
            f"The scores are for {len(names)} training examples, the training table has "
            f"{train_table.height} or others. Run `kedro run --pipelines audit` with this task "
            "first."
        )


def check_trainable(task: Any) -> None:
    """Refuse a task that cannot be trained again.

    Raises:
        InputError: If it has no `train`.
    """
    if not callable(getattr(task, "train", None)):
        raise InputError(
            f"{type(task).__name__} has no train(indices, *, seed), so its scores cannot be "
            "verified. Add it: it trains build_model() as the audited model was trained, on the "
            "training examples with these numbers, and returns the model; "
            "sourcetrace.tasks.train_with_sgd is a plain loop."
        )
