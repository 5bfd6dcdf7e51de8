"""What a run will cost, and what its stages did, as lines of the log and metrics."""

import logging
from datetime import datetime, timedelta
from typing import Any

from sourcetrace.core.engine.gradient_engine import GradientEngine
from sourcetrace.core.machine.memory import peak_memory
from sourcetrace.core.methods.cost import RunCost
from sourcetrace.core.methods.precision_check import PrecisionError
from sourcetrace.formats import format_bytes, format_noun
from sourcetrace.pipelines.shared.metrics import logged

logger = logging.getLogger(__name__)

_STAGES = {
    "gradient_extraction": ("Gradient extraction", ("passes", "covariances")),
    "ekfac_fitting": (
        "EK-FAC fitting",
        ("passes_to_fit", "eigendecompositions", "corrected_eigenvalues", "curvature_scales"),
    ),
    "source_scoring": (
        "Source scoring",
        ("exact_solves", "passes_to_score", "scoring", "self_influence"),
    ),
}
"""Stage of the audit -> its name, and what `core.methods.cost` counts of it."""


def report_cost(engine: GradientEngine, cost: RunCost) -> dict[str, Any]:
    """Log what the run will cost, keep it for the ends of the stages, and return it as metrics."""
    seconds = {stage.name: stage.seconds for stage in cost.stages}
    logger.debug(
        "This run takes %s and %s of an example",
        format_noun(cost.forward, "forward pass", "forward passes"),
        format_noun(cost.backward, "backward pass", "backward passes"),
    )
    expected = engine.timings.expected
    for stage, (_, names) in _STAGES.items():
        if own := [seconds[name] for name in names if name in seconds]:
            expected[stage] = sum(own)
    logger.info(
        "Computing takes %s, by a timed batch: %s",
        _time_left(cost.seconds),
        ", ".join(f"{_STAGES[name][0]} {seconds_text(one)}" for name, one in expected.items()),
    )
    parts = {f"cost.{name}.seconds": one for name, one in seconds.items()}
    return logged(parts | {f"cost.{one.name}.kept_bytes": one.kept_bytes for one in cost.stages})


def report_work(engine: GradientEngine, stage: str) -> dict[str, Any]:
    """Log what a stage took, and how long the others will, and return the first as metrics.

    Args:
        engine: Whose timings they are.
        stage: As it was named to them.
    """
    seconds, peak = engine.timings.seconds[stage], peak_memory(engine.device)
    left = engine.timings.left
    logger.info(
        "%s took %s (peak memory %s)%s",
        _STAGES[stage][0],
        seconds_text(seconds),
        format_bytes(peak),
        f"; {_time_left(left)} of computing left" if left else "",
    )
    return logged({f"work.{stage}.seconds": seconds, f"work.{stage}.peak_bytes": peak})


def _time_left(seconds: float) -> str:
    """Return 'about 12 min (until Sun 14:05)'; a few seconds need no clock."""
    said = f"about {seconds_text(seconds)}"
    if seconds < 60:  # noqa: PLR2004
        return said
    end = datetime.now().astimezone() + timedelta(seconds=seconds)
    return f"{said} (until {end:%a %H:%M})"


def seconds_text(seconds: float) -> str:
    """Return 0.31 as '0.3 s' and 700 as '12 min'."""
    if seconds < 0.95:  # noqa: PLR2004
        return f"{seconds:.1g} s"
    return f"{seconds:,.0f} s" if seconds < 600 else f"{seconds / 60:,.0f} min"  # noqa: PLR2004


def report_precision(what: str, kind: str, precision: str, error: PrecisionError) -> dict[str, Any]:
    """Log how far a lower precision is off and return it as a metric.

    Args:
        what: That was compared, for the log.
        kind: Of `attribution.precision`.
        precision: The precision.
        error: Measured on examples of the run.
    """
    logger.info(
        "attribution.precision.%s: in %s, %s are off by %.1e of their size from those in %s",
        kind,
        precision,
        what,
        error.relative,
        error.against,
    )
    return logged({f"precision_error.{kind}": error.relative})
