"""The checks of the ingest that need no model, on both sides of a task."""

import pickle
from typing import Any

import polars as pl

from sourcetrace.pipelines.checkpoint_ingest.tables import (
    checked_table,
    digest_side,
    refuse_varying,
)
from sourcetrace.tasks.items import CheckedItems


def checked_tables(task: Any) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Return the tables as the ingest keeps them, all examples read."""
    tables = []
    for side in ("train", "query"):
        table = checked_table(task, side)
        items = CheckedItems(task, side, table["example_id"].to_list())
        refuse_varying(task, items)
        said, _ = digest_side(task, items, table)
        assert said["digest"].startswith("st1-")  # of the contents, not of the names alone
        # For spawned workers of a DataLoader.
        assert len(pickle.loads(pickle.dumps(getattr(task, f"{side}_examples")()))) == len(items)
        tables.append(table)
    return tables[0], tables[1]
