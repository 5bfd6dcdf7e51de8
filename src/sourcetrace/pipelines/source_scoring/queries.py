"""What made each query so: its strongest examples, and where its scores come from."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl

from sourcetrace.datasets.score_files import merge_strongest
from sourcetrace.datasets.tensor_file import TensorFile
from sourcetrace.pipelines.set_up.audit_setup import AuditSetup
from sourcetrace.pipelines.source_scoring.parts import STRONGEST, SUMS, stage_names
from sourcetrace.pipelines.source_scoring.ranges import Ranges
from sourcetrace.schemas import QueryStrongest


def describe_queries(
    audit_setup: AuditSetup, query_contributions: pl.DataFrame
) -> tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame]:
    """Return the strongest examples of every query, the shares of its scores, and its helpers.

    They are merged of what the ranges' units have; shares by segment are of the contributions.
    """
    inputs, ledger = audit_setup.inputs, audit_setup.team.ledger
    queries = pl.Series("query_id", audit_setup.queries.ids, dtype=pl.String)
    folders = [ledger.folder(unit) for unit in Ranges(audit_setup).units]
    strongest = merge_strongest(
        (pl.read_parquet(folder / STRONGEST) for folder in folders),
        audit_setup.attribution.strongest_examples,
    )
    sums: dict[str, np.ndarray[Any, Any]] = {}
    for folder in folders:
        for name, one in TensorFile(folder / SUMS).read().items():
            sums[name] = sums.get(name, 0) + one.numpy()
    stages = stage_names(inputs.train_table["stage"]).unique(maintain_order=True).to_list()
    named = dict(inputs.manifest.select("segment", "stage").iter_rows())
    sizes = {
        f"{number} ({named[number]})": part["absolute_scores"].to_numpy().sum(0)
        for (number,), part in query_contributions.partition_by("segment", as_dict=True).items()
    }
    shares = pl.concat(
        [
            _shares("stage", queries, stages, np.stack([sums[f"stage/{one}"] for one in stages])),
            _shares("segment", queries, list(sizes), np.stack(list(sizes.values()))),
        ]
    )
    helpers = np.square(sums["helpful"]) / np.maximum(sums["squares"], np.finfo(float).tiny)
    return (
        strongest.with_columns(query_id=queries.gather(strongest["query"])).select(
            list(QueryStrongest.columns())
        ),
        shares,
        pl.DataFrame({"query_id": queries, "helpers": helpers}),
    )


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
