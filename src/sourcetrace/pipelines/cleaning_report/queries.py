"""What made each query so: its strongest examples, and where its scores come from."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl

from sourcetrace.datasets.score_files import ScoreFiles
from sourcetrace.parameters import ReportParameters
from sourcetrace.schemas import QueryStrongest


def list_strongest(
    query_contributions: pl.DataFrame,
    score_files: ScoreFiles,
    query_table: pl.DataFrame,
    train_table: pl.DataFrame,
    checkpoint_manifest: pl.DataFrame,
    measurement: dict[str, Any],
    report: ReportParameters,
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Return the strongest helpers and harmers of every query, and the shares of its scores."""
    queries = query_table["example_id"]
    strongest = score_files.strongest(
        range(len(queries)),
        report.query_examples,
        higher_is_better=measurement["higher_is_better"],
    )
    strongest = strongest.with_columns(query_id=queries.gather(strongest["query"]))
    stage = pl.col("stage").list.join(", ")
    stages = train_table.with_row_index().group_by(stage, maintain_order=True).agg("index")
    named = dict(checkpoint_manifest.select("segment", "stage").iter_rows())
    sizes = {
        f"{number} ({named[number]})": part["absolute_scores"].to_numpy().sum(0)
        for (number,), part in query_contributions.partition_by("segment", as_dict=True).items()
    }
    by_stage = score_files.sums_over(stages["index"], sizes=True)
    shares = pl.concat(
        [
            _shares("stage", queries, stages["stage"].to_list(), by_stage),
            _shares("segment", queries, list(sizes), np.stack(list(sizes.values()))),
        ]
    )
    return strongest.select(list(QueryStrongest.columns())), shares


def _shares(
    kind: str, queries: pl.Series, names: Sequence[str], sizes: "np.ndarray[Any, Any]"
) -> pl.DataFrame:
    """Return `schemas.QueryShares` of sizes, [names, Q]."""
    total = sizes.sum(0)
    shares = np.divide(sizes, total, out=np.zeros_like(sizes, dtype=np.float64), where=total > 0)
    return pl.concat(
        pl.select(query_id=queries, kind=pl.lit(kind), name=pl.lit(name), share=pl.Series(share))
        for name, share in zip(names, shares, strict=True)
    )
