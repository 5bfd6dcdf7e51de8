"""Score the training examples block by block; a block's rows are saved as they come."""

import logging
from collections.abc import Iterator, Sequence
from typing import Any

import polars as pl
import torch
from kedro.pipeline import Pipeline
from torch import Tensor

from sourcetrace.audit.suggestions.suspicion import weigh_evidence
from sourcetrace.core.engine.gradient_engine import Passes
from sourcetrace.core.machine.memory import start_peak
from sourcetrace.core.methods.astra import SegmentSolve
from sourcetrace.core.methods.score import BlockScores
from sourcetrace.core.model.examples import Block
from sourcetrace.core.responses.low_rank_responses import ScoreCheck
from sourcetrace.core.statistics.uncertainty import (
    in_quadrature,
    sign_is_stable,
    standard_error_of_mean,
    standard_error_of_sum,
)
from sourcetrace.pipelines.shared.accounting import report_work
from sourcetrace.pipelines.shared.metrics import logged
from sourcetrace.pipelines.shared.scoring import scorer_of
from sourcetrace.pipelines.shared.set_up import SET_UP, AuditSetup
from sourcetrace.pipelines.shared.step import step
from sourcetrace.pipelines.source_scoring.pictures import draw_queries, draw_suspects
from sourcetrace.progress import track
from sourcetrace.reporting.queries.view import Measurement

logger = logging.getLogger(__name__)


def score_examples(
    audit_setup: AuditSetup, curvature: list[Any]
) -> Iterator[tuple[pl.DataFrame | dict[str, Any], ...]]:
    """Score a block of training examples at a time.

    Yields:
        The tables `_BY_BLOCK` of a block; with the first, the metrics of preparing the queries;
        with the last, those of the work.
    """
    setup, engine = audit_setup, audit_setup.engine
    start_peak(engine.device)
    engine.passes = Passes()  # those of this stage
    scorer = scorer_of(setup, curvature, setup.queries)
    scored = scorer.scored(progress=lambda visits: track(visits, "Scoring"))
    metrics: dict[str, Any] = {}
    blocks = engine.blocks()
    for number in range(len(blocks)):
        with engine.timings.timed("source_scoring"):
            block, found = next(scored)
        if number == 0:
            metrics = _solve_metrics(scorer.solves, engine.passes) | _check_metrics(scorer.checks)
        if number == len(blocks) - 1:
            next(scored, None)  # so that the bar ends
            metrics |= report_work(engine, "source_scoring")
        yield (*_tables(setup, block, found), metrics)
        metrics = {}


def describe_measurement(audit_setup: AuditSetup, query_influence: pl.DataFrame) -> dict[str, Any]:
    """Return what is said of the queries' measurement where no task is loaded."""
    del query_influence  # so that it runs behind the scores, and not where they are refused
    task = audit_setup.inputs.task
    higher = task.measurement_higher_is_better
    return Measurement(
        name=getattr(task, "measurement_name", "measurement" if higher else "loss"),
        higher_is_better=higher,
        by_token=hasattr(task, "tokens_of"),
    ).model_dump(mode="json")


def _tables(setup: AuditSetup, block: Block, found: BlockScores) -> tuple[pl.DataFrame, ...]:
    """Return a block's rows of the tables that are scored block by block."""
    segments, own = found.shares, found.self_influence
    # The row behind the queries is the mean of their training losses.
    scores, mean_loss = segments.sum(0)[:-1], segments[:, -1]
    # The score is the change on removal; times this, how much better a query gets.
    better = 1 if setup.inputs.task.measurement_higher_is_better else -1
    gain = better * scores
    best = gain.max(0)
    examples = pl.Series(setup.engine.training.ids[block.start : block.stop])
    values = scores.T.float().cpu().contiguous().numpy()
    sizes = segments[:, :-1].abs().sum(2).double().cpu().numpy()
    return (
        pl.DataFrame(
            {
                "example_id": examples,
                "scores": pl.Series(values, dtype=pl.Array(pl.Float32, values.shape[1])),
            }
        ),
        pl.DataFrame(
            {
                "example_id": examples,
                "harm": _floats(gain.double().sum(0)),
                "mean_query_loss_influence": _floats(mean_loss.sum(0)),
                "queries_harmed": (gain > 0).sum(0).tolist(),
                "most_harmed_query": [setup.queries.ids[query] for query in best.indices.tolist()],
                "most_harmed_score": _floats(scores.gather(0, best.indices.unsqueeze(0))[0]),
                **_error_columns(scores, setup, found),
                "method": [setup.attribution.method] * len(block),
            }
        ),
        pl.DataFrame({"example_id": examples, "self_influence": _floats(own.sum(0))}),
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
            )
            for index, planned in enumerate(setup.plan.segments)
        ),
        pl.DataFrame(
            {
                "segment": [planned.segment.number for planned in setup.plan.segments],
                "absolute_scores": pl.Series(sizes, dtype=pl.Array(pl.Float64, sizes.shape[1])),
            }
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


def _solve_metrics(solves: Sequence[SegmentSolve], passes: Passes) -> dict[str, Any]:
    """Return the largest residual and the iterations by segment, and the passes; or nothing."""
    if not solves:
        return {}
    residuals = torch.cat([one.residuals for one in solves])
    unsolved = int((residuals > solves[0].tolerance).sum())
    if unsolved:
        logger.warning(
            "%d of %d systems did not reach the tolerance; the largest residual is %.2g. Raise "
            "attribution.astra.max_iterations, or read those scores as Source's with a rougher "
            "curvature.",
            unsolved,
            len(residuals),
            float(residuals.max()),
        )
    return {
        "astra.residual": [
            {"value": float(one.residuals.max()), "step": one.segment} for one in solves
        ],
        "astra.iterations": [
            {"value": float(one.iterations.max()), "step": one.segment} for one in solves
        ],
        **logged(
            {
                "astra.forward_passes": passes.forward,
                "astra.backward_passes": passes.backward,
            }
        ),
    }


def _check_metrics(checks: Sequence[ScoreCheck]) -> dict[str, Any]:
    """Return the error of the scores, and how they are computed, layer by layer; log it."""
    if not checks:
        return {}
    error = max(check.error for check in checks)
    refused = [check.refused for check in checks if check.refused is not None]
    if refused:
        logger.warning(
            "attribution.precision.scores: scores would be off by %.1e on a sample of pairs, more "
            "than attribution.tolerance, %g: float32 is used. Raise the tolerance to accept it.",
            max(refused),
            checks[0].tolerance,
        )
    elif checks[0].precision != "float32":
        logger.info(
            "Scores are multiplied in %s, and are off by %.1e of their size on a sample",
            checks[0].precision,
            error,
        )
    choices = [choice for check in checks for choice in check.choices]
    short = sum(choice.multiplications for choice in choices)
    dense = sum(choice.dense_multiplications for choice in choices)
    if short < dense:
        logger.info(
            "Scores take a short way, %.0f %% of the work, and are off by %.1e of their size on a "
            "sample (attribution.tolerance: %g)",
            100 * short / dense,
            error,
            checks[0].tolerance,
        )
    for choice in choices:
        logger.debug(
            "Segment %d, %s: %s; %s",
            choice.segment,
            choice.layer,
            f"{choice.terms} outer products a query" if choice.terms else "written out",
            choice.reason,
        )
    terms: dict[str, Any] = {}
    for choice in checks[0].choices:  # other members have their own, much the same
        value = {"value": float(choice.terms), "step": choice.segment}
        terms.setdefault(f"response_terms.{choice.layer}", []).append(value)
    return logged({"score_error": error, "score_multiplications_share": short / dense}) | terms


_BY_BLOCK = [
    "attribution_scores",
    "query_influence",
    "self_influence",
    "segment_contributions",
    "query_contributions",
]

PIPELINE = Pipeline(
    [
        *SET_UP,
        step(score_examples, [*_BY_BLOCK, "solve_metrics"], confirms=_BY_BLOCK),
        step(weigh_evidence, "suspicions"),
        step(draw_suspects, "suspect_pictures"),
        step(draw_queries, ["strongest_pictures", "query_pictures"]),
        step(describe_measurement, "measurement"),
    ]
)
