"""What a unit writes of its range: a part of every table, and what its scores say of each query.

The strongest examples of the queries and sums over their scores are made here, where the scores
are in memory, so that nobody reads all scores for them, and none need be kept.
"""

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
import polars as pl
import torch
from torch import Tensor

from sourcetrace.core.model.examples import Block
from sourcetrace.datasets.score_files import stored_scores, strongest_of
from sourcetrace.datasets.tensor_file import TensorFile
from sourcetrace.pipelines.set_up.audit_setup import AuditSetup
from sourcetrace.pipelines.source_scoring.tables import TABLES, check_table

STRONGEST: Final = "strongest.parquet"
"""File of the strongest examples of every query, as `strongest_of` returns them."""

SUMS: Final = "sums.safetensors"
"""File of sums over the examples, each [Q]: `helpful` scores and their `squares`, and the scores'
sizes by stage, `stage/<name>`."""


def file_of(table: str, part: Block) -> str:
    """Return the name of the file that has a part of a table."""
    return f"{table}-{part.start:09d}.parquet"


def write_range(
    setup: AuditSetup, folder: Path, parts: Iterable[tuple[Block, Iterable[pl.DataFrame]]]
) -> None:
    """Write a range's part of every table, what its examples are, `STRONGEST` and `SUMS`.

    Args:
        setup: Of the audit.
        folder: The unit's.
        parts: Consecutive examples with their rows of each of `TABLES`.
    """
    sums: dict[str, Tensor] = {}
    higher = setup.inputs.task.measurement_higher_is_better

    def scores() -> Iterator[tuple[pl.Series, "np.ndarray[Any, Any]"]]:
        for part, tables in parts:
            rows = dict(zip(TABLES, tables, strict=True))
            for name, table in rows.items():
                check_table(name, table)
            kept = rows["attribution_scores"]
            values = kept.select(stored_scores(kept.lazy())).to_series().to_numpy()
            if setup.attribution.precision.stored_scores == "strongest":
                digest = hashlib.sha256(np.ascontiguousarray(values).tobytes()).hexdigest()
                rows["attribution_scores"] = kept.select("example_id", scores_digest=pl.lit(digest))
            for name, table in rows.items():
                table.write_parquet(folder / file_of(name, part))
            setup.contents.write(folder, part)
            stages = setup.inputs.train_table["stage"].gather(part.numbers.numpy())
            for name, one in _sums(values, stages, higher_is_better=higher).items():
                sums[name] = sums[name] + one if name in sums else one
            yield kept["example_id"], values

    count = setup.attribution.strongest_examples
    strongest_of(scores(), count, higher_is_better=higher).write_parquet(folder / STRONGEST)
    TensorFile(folder / SUMS).write(sums)


def _sums(
    scores: "np.ndarray[Any, Any]", stages: pl.Series, *, higher_is_better: bool
) -> dict[str, Tensor]:
    values = scores.astype(np.float64)
    helpful = np.maximum(-values if higher_is_better else values, 0)
    names = stage_names(stages)
    present = names.unique(maintain_order=True)
    inside = (present.to_numpy()[:, None] == names.to_numpy()).astype(np.float64)
    found = {"helpful": helpful.sum(0), "squares": np.square(helpful).sum(0)}
    found |= zip("stage/" + present, inside @ np.abs(values), strict=True)
    return {name: torch.from_numpy(one) for name, one in found.items()}


def stage_names(stages: pl.Series) -> pl.Series:
    """Return the stages that each example belongs to as one text."""
    return stages.list.join(", ")
