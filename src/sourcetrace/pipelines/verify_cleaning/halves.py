"""Half of the queries suggests what to change, so that the other half can say what it gains."""

import hashlib
from typing import Any

import polars as pl
import torch

from sourcetrace.audit.suggestions.actions import suggest_actions
from sourcetrace.audit.suggestions.suspicion import weigh_evidence
from sourcetrace.core.statistics.uncertainty import sign_is_stable, standard_error_of_sum
from sourcetrace.datasets.score_files import ScoreFiles
from sourcetrace.errors import InputError
from sourcetrace.parameters import CleaningParameters, ReportParameters
from sourcetrace.pipelines.shared.inputs import Ingested


def held_out_table(task: Any) -> pl.DataFrame | None:
    """Return the table of the examples that no audit reads, where the task has any."""
    table: pl.DataFrame | None = getattr(task, "holdout_table", lambda: None)()
    return table


def is_split(task: Any, cleaning: CleaningParameters) -> bool:
    """Return whether half of the queries suggests, and the other half measures.

    People have decided with all of them; that is not to be taken back.
    """
    return cleaning.of == "suggestions" and held_out_table(task) is None


def measuring(queries: pl.Series) -> pl.Series:
    """Return whether each query measures; by the digest of its id, and nothing else of it."""
    digests = [hashlib.sha256(name.encode()).digest() for name in queries]
    return pl.Series(digests, dtype=pl.Binary).rank("ordinal") > len(digests) // 2


def suggest_with_half(
    ingested: Ingested,
    score_files: ScoreFiles,
    review_list: pl.DataFrame,
    example_signals: pl.LazyFrame,
    query_history: pl.DataFrame,
    self_influence: pl.LazyFrame,
    report: ReportParameters,
    cleaning: CleaningParameters,
) -> pl.DataFrame:
    """Return the review list; where queries are split, with what the one half suggests.

    Raises:
        InputError: If a single query would have to be split.
    """
    if not is_split(ingested.task, cleaning):
        return review_list
    queries = ingested.query_table["example_id"]
    if len(queries) < 2:  # noqa: PLR2004
        raise InputError(
            "A single query cannot both suggest changes and measure their gain. Give the task more "
            "queries, or held-out examples that the gain is measured on: holdout of an adapter, or "
            "holdout_examples() and holdout_table()."
        )
    suggesting = ~measuring(queries)
    better = 1 if ingested.task.measurement_higher_is_better else -1
    harms = _harms(score_files, suggesting, better)
    suspicions = weigh_evidence(
        ingested.train_table,
        ingested.manifest,
        example_signals,
        query_history.filter(pl.col("example_id").is_in(queries.filter(suggesting).implode())),
        harms.lazy(),
        self_influence,
    )
    found = harms.join(suspicions, on="example_id", maintain_order="left")
    return suggest_actions(
        review_list.drop(found.columns[1:], strict=False).join(found, on="example_id"),
        false_discovery_rate=report.false_discovery_rate,
        relabel_probability=report.relabel_probability,
    )


def _harms(score_files: ScoreFiles, suggesting: pl.Series, better: int) -> pl.DataFrame:
    """Return harm to these queries, and its error over them: that over checkpoints is of all."""
    blocks = []
    for ids, scores in score_files.blocks():
        gains = better * torch.from_numpy(scores[:, suggesting.to_numpy()].T).double()
        harm, error = gains.sum(0), standard_error_of_sum(gains)
        columns = {"harm": harm, "harm_error": error, "sign_stable": sign_is_stable(harm, error)}
        blocks.append(
            pl.DataFrame({"example_id": ids, **{k: v.numpy() for k, v in columns.items()}})
        )
    return pl.concat(blocks)
