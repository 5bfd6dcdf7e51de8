"""Pictures of what the page shows, where the task draws any."""

from collections.abc import Callable
from typing import Any

import numpy as np
import polars as pl
from PIL import Image

from sourcetrace.parameters import ReportParameters
from sourcetrace.reporting.queries.view import SHOWN_A_SIDE, worst_queries
from sourcetrace.schemas.scores import SuspectPictures
from sourcetrace.tasks import Task

_SMALL = 48
"""Pixels of the longer side of a picture that is shown small."""


def draw_suspects(
    task: Task,
    train_table: pl.DataFrame,
    suspicions: pl.LazyFrame,
    report: ReportParameters,
) -> pl.DataFrame:
    """Return pictures of the most suspicious examples, if the task has any."""
    draw = getattr(task, "picture", None)
    if draw is None or report.pictures == 0:
        return SuspectPictures.frame()
    in_order = suspicions.lazy().select("suspicion", "example_id")
    in_order = in_order.sort(["suspicion", "example_id"], descending=[True, False])
    suspects = in_order.head(report.pictures).collect()
    return _pictures(draw, train_table, suspects["example_id"])


def draw_queries(
    task: Task,
    train_table: pl.DataFrame,
    query_table: pl.DataFrame,
    query_signals: pl.DataFrame,
    query_strongest: pl.DataFrame,
    report: ReportParameters,
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Return small pictures of what the page shows of single queries, and of those queries.

    Args:
        task: Which draws them, or does not.
        train_table: Of the training examples.
        query_table: Of the queries.
        query_signals: Of the queries; those that are measured worst are shown.
        query_strongest: Their strongest examples.
        report: How many.
    """
    higher = task.measurement_higher_is_better
    worst = worst_queries(query_signals, higher_is_better=higher).head(report.pictures)
    places = worst.to_list() if hasattr(task, "picture") or hasattr(task, "query_picture") else []
    if not places:
        return SuspectPictures.frame(), SuspectPictures.frame()
    shown = query_table[places].select(query_id="example_id")
    shown = shown.join(query_strongest, on="query_id", maintain_order="left_right")
    found = shown.filter(pl.col("rank") <= SHOWN_A_SIDE)
    return (
        _pictures(
            getattr(task, "picture", None),
            train_table,
            found["example_id"].unique(maintain_order=True),
            side=_SMALL,
        ),
        _pictures(
            getattr(task, "query_picture", None),
            query_table,
            query_table["example_id"].gather(places),
            side=_SMALL,
        ),
    )


def _pictures(
    draw: Callable[[int], Any] | None,
    table: pl.DataFrame,
    wanted: pl.Series,
    *,
    side: int | None = None,
) -> pl.DataFrame:
    """Return the pictures of some examples of a table, no larger than a side where one is given."""
    if draw is None:
        return SuspectPictures.frame()
    position = {name: index for index, name in enumerate(table["example_id"])}
    rows = []
    for example in wanted:
        picture: np.ndarray[Any, Any] = np.asarray(draw(position[example]), dtype=np.float32)
        if side is not None and max(picture.shape[:2]) > side:
            levels = (np.nan_to_num(picture).clip(0, 1) * 255).round().astype(np.uint8)
            small = Image.fromarray(levels[..., 0] if levels.shape[2:] == (1,) else levels)
            small.thumbnail((side, side))
            picture = np.asarray(small, dtype=np.float32) / 255
        height, width, *channels = picture.shape
        rows.append((example, height, width, (channels or [1])[0], picture.ravel().tolist()))
    return SuspectPictures.frame(rows)
