"""How the queries were prepared before examples met them, kept with the scores of the first."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from sourcetrace.core.engine.passes import Passes
from sourcetrace.core.methods.astra import SegmentSolve
from sourcetrace.core.responses.score_check import ScoreCheck
from sourcetrace.pipelines.shared.metrics import logged
from sourcetrace.validation import JsonRecord

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Preparation(JsonRecord):
    """How the queries were prepared.

    Attributes:
        checks: How far the scores are from the exact filters', a member each.
        solves: How ASTRA's systems were solved, where there were any.
        passes: Those of the stage so far.
    """

    checks: Sequence[ScoreCheck]
    solves: Sequence[SegmentSolve]
    passes: Passes

    def __add__(self, other: "Preparation") -> "Preparation":
        """Return that of the layers of both, the other's prepared later."""
        checks = [
            replace(one, error=max(one.error, more.error), choices=one.choices + more.choices)
            for one, more in zip(self.checks, other.checks, strict=True)
        ]
        return replace(other, checks=checks)  # what solves has all layers in one group

    def report(self) -> dict[str, Any]:
        """Log it, and return it as metrics."""
        return self._report_solves() | self._report_checks()

    def _report_solves(self) -> dict[str, Any]:
        """Return the largest residual and the iterations by segment, and the passes; or nothing."""
        if not self.solves:
            return {}
        tolerance = self.solves[0].tolerance
        residuals = [residual for one in self.solves for residual in one.residuals]
        unsolved = sum(residual > tolerance for residual in residuals)
        if unsolved:
            logger.warning(
                "%d of %d systems did not reach the tolerance; the largest residual is %.2g. Raise "
                "attribution.astra.max_iterations, or read those scores as Source's with a rougher "
                "curvature.",
                unsolved,
                len(residuals),
                max(residuals),
            )
        return {
            "astra.residual": [
                {"value": max(one.residuals), "step": one.segment} for one in self.solves
            ],
            "astra.iterations": [
                {"value": float(max(one.iterations)), "step": one.segment} for one in self.solves
            ],
            **logged(
                {
                    "astra.forward_passes": self.passes.forward,
                    "astra.backward_passes": self.passes.backward,
                }
            ),
        }

    def _report_checks(self) -> dict[str, Any]:
        """Return the error of the scores, and how they are computed, layer by layer; log it."""
        checks = self.checks
        if not checks:
            return {}
        error = max(check.error for check in checks)
        refused = [check.refused for check in checks if check.refused is not None]
        if refused:
            logger.warning(
                "attribution.precision.scores: scores would be off by %.1e on a sample of pairs, "
                "more than attribution.tolerance, %g: float32 is used. Raise the tolerance to "
                "accept it.",
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
                "Scores take a short way, %.0f %% of the work, and are off by %.1e of their size "
                "on a sample (attribution.tolerance: %g)",
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
