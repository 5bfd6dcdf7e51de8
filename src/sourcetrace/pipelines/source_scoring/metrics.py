"""How the queries were prepared, as lines of the log and metrics."""

import logging
from collections.abc import Sequence
from typing import Any

from sourcetrace.core.engine.gradient_engine import Passes
from sourcetrace.core.methods.astra import SegmentSolve
from sourcetrace.core.responses.low_rank_responses import ScoreCheck

logger = logging.getLogger(__name__)


def solve_metrics(solves: Sequence[SegmentSolve], passes: Passes) -> dict[str, Any]:
    """Return the largest residual and the iterations by segment, and the passes; or nothing."""
    if not solves:
        return {}
    unsolved = sum(int((one.residuals > one.tolerance).sum()) for one in solves)
    if unsolved:
        logger.warning(
            "%d of %d systems did not reach the tolerance; the largest residual is %.2g. Raise "
            "attribution.astra.max_iterations, or read those scores as Source's with a rougher "
            "curvature.",
            unsolved,
            sum(len(one.residuals) for one in solves),
            max(float(one.residuals.max()) for one in solves),
        )
    return {
        "astra.residual": [
            {"value": float(one.residuals.max()), "step": one.segment} for one in solves
        ],
        "astra.iterations": [
            {"value": float(one.iterations.max()), "step": one.segment} for one in solves
        ],
        "astra.forward_passes": {"value": float(passes.forward), "step": 0},
        "astra.backward_passes": {"value": float(passes.backward), "step": 0},
    }


def check_metrics(checks: Sequence[ScoreCheck]) -> dict[str, Any]:
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
            "Scores are multiplied in %s; on a sample of pairs they are off by %.1e of their size",
            checks[0].precision,
            error,
        )
    choices = [choice for check in checks for choice in check.choices]
    short = sum(choice.multiplications for choice in choices)
    dense = sum(choice.dense_multiplications for choice in choices)
    if short < dense:
        logger.info(
            "Scores take %.0f %% of the multiplications of the exact filters; on a sample of "
            "pairs they are off by %.1e of their size (attribution.tolerance: %g)",
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
    return {
        "score_error": {"value": error, "step": 0},
        "score_multiplications_share": {"value": short / dense, "step": 0},
        **terms,
    }
