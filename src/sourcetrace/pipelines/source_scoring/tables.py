"""The rows that a block of training examples has in each table of scores."""

from typing import Final

import numpy as np
import polars as pl
import torch
from kedro.validation import DataValidationError, PanderaValidator
from torch import Tensor

from sourcetrace.core.methods.score import BlockScores
from sourcetrace.core.model.examples import Block
from sourcetrace.core.statistics.uncertainty import (
    in_quadrature,
    sign_is_stable,
    standard_error_of_mean,
    standard_error_of_sum,
)
from sourcetrace.datasets.score_files import score_columns
from sourcetrace.pipelines.set_up.audit_setup import AuditSetup
from sourcetrace.schemas import (
    AttributionScores,
    QueryContributions,
    QueryInfluence,
    SegmentContributions,
    SelfInfluence,
)

TABLES: Final = {
    "attribution_scores": AttributionScores,
    "query_influence": QueryInfluence,
    "self_influence": SelfInfluence,
    "segment_contributions": SegmentContributions,
    "query_contributions": QueryContributions,
}
"""Entry of the catalog -> what its table is held against."""


def check_table(name: str, table: pl.DataFrame) -> None:
    """Hold a part of a table against its schema, here, once, and not when it is handed on.

    Raises:
        DataValidationError: If it does not fit.
    """
    try:
        PanderaValidator(TABLES[name]).validate(table)
    except DataValidationError as error:
        error.dataset_name, error.mode = name, "save"
        raise


def tables_of(setup: AuditSetup, block: Block, found: BlockScores) -> tuple[pl.DataFrame, ...]:
    """Return a block's rows of each of `TABLES`.

    Examples that are set aside have scores of 0, and no other row.
    """
    segments, own = found.shares, found.self_influence
    # The row behind the queries is the mean of their training losses.
    scores, mean_loss = segments.sum(0)[:-1], segments[:, -1]
    # The score is the change on removal; times this, how much better a query gets.
    better = 1 if setup.inputs.task.measurement_higher_is_better else -1
    gain = better * scores
    best = gain.max(0)
    numbers = block.numbers.numpy()
    examples = setup.contents.names.gather(numbers)
    values = scores.T.float().cpu().contiguous().numpy()
    precision = setup.attribution.precision.stored_scores
    stored = score_columns(values, "float16" if precision == "float16" else "float32")
    used = ~pl.Series(numbers).is_in(setup.set_aside.numbers)
    drawn = used & setup.is_drawn(examples)
    sizes = segments[:, :-1, drawn.to_torch()].abs().mT.double().cpu().numpy()
    kind = pl.Array(pl.Float64, sizes.shape[2])
    return (
        pl.DataFrame([examples.alias("example_id"), *stored]),
        pl.DataFrame(
            {
                "example_id": examples,
                "harm": _floats(gain.double().sum(0)),
                "mean_query_loss_influence": _floats(mean_loss.sum(0)),
                "queries_harmed": (gain > 0).sum(0).tolist(),
                "most_harmed_query": [setup.queries.ids[query] for query in best.indices.tolist()],
                "most_harmed_score": _floats(scores.gather(0, best.indices.unsqueeze(0))[0]),
                "absolute_score": np.abs(values.astype(np.float64)).sum(1),
                **_error_columns(scores, setup, found),
                "method": [setup.attribution.method] * len(block),
            }
        ).filter(used),
        pl.DataFrame({"example_id": examples, "self_influence": _floats(own.sum(0))}).filter(used),
        pl.concat(
            pl.DataFrame(
                {
                    "example_id": examples,
                    "segment": [planned.segment.number] * len(block),
                    "harm": _floats(better * segments[index, :-1].sum(0)),
                    "mean_query_loss_influence": _floats(mean_loss[index]),
                    "mean_absolute_score": _floats(segments[index, :-1].abs().mean(0)),
                    "self_influence": _floats(own[index]),
                }
            ).filter(used)
            for index, planned in enumerate(setup.plan.segments)
        ),
        pl.concat(
            pl.DataFrame(
                {
                    "example_id": examples.filter(drawn),
                    "segment": pl.Series([planned.segment.number] * len(own), dtype=pl.Int64),
                    "absolute_scores": pl.Series(own, dtype=kind),
                }
            )
            for planned, own in zip(setup.plan.segments, sizes, strict=True)
        ),
    )


def _error_columns(scores: Tensor, setup: AuditSetup, found: BlockScores) -> dict[str, pl.Series]:
    """Return the error of each example's harm, where it comes from, and whether its sign holds."""
    scores = scores.double()
    runs: dict[str, list[int]] = {}
    for index, planned in enumerate(setup.plan.segments):
        runs.setdefault(planned.segment.run, []).append(index)
    if len(runs) > 1:
        harms = found.shares[:, :-1].double().sum(1)
        by_run = torch.stack([harms[own].sum(0) for own in runs.values()])
        checkpoints = standard_error_of_sum(by_run)
    else:
        checkpoints = in_quadrature(map(standard_error_of_mean, found.checkpoint_sums))
    queries = standard_error_of_sum(scores)
    error = in_quadrature([checkpoints, queries])
    stable = sign_is_stable(scores.sum(0), error).tolist()
    return {
        "harm_error": _floats(error),
        "harm_error_checkpoints": _floats(checkpoints),
        "harm_error_queries": _floats(queries),
        "sign_stable": pl.Series(stable, dtype=pl.Boolean),
    }


def _floats(values: Tensor) -> pl.Series:
    return pl.Series(values.double().cpu().numpy())
