"""What changed since the audit before, as numbers that checks are about."""

from sourcetrace.audit.comparison.summary import AuditPoint, Comparison
from sourcetrace.audit.gate.measured import Measured
from sourcetrace.audit.gate.report import GateReport
from sourcetrace.schemas.metric_names import GateMetric

_FIRST = "there is no earlier audit to compare with"


def measure_comparison(found: Comparison) -> dict[GateMetric, Measured]:
    """Return the metrics of a comparison; those of a first audit have no value, and say why."""
    names: tuple[GateMetric, ...] = (
        "new_suspect_share",
        "persisting_suspect_share",
        "score_rank_correlation",
        "curvature_distance",
        "changed_example_share",
    )
    if found.previous_at is None:
        return {name: Measured(None, _FIRST) for name in names}
    examples, data, layers = found.training_examples, found.data, found.curvature.layers
    correlation = found.scores.rank_correlation
    changed = data.added + data.removed + data.relabelled + data.edited
    values = (
        Measured(found.suspects.new / examples),
        Measured(found.suspects.persisting / examples),
        Measured(correlation, "" if correlation is not None else _unordered(found)),
        Measured(layers[0].distance, f"layer {layers[0].layer}")
        if layers
        else Measured(None, "the audits have no layer's curvature in common"),
        Measured(changed / (examples + data.removed)),
    )
    return dict(zip(names, values, strict=True))


def audit_point(found: Comparison, report: GateReport) -> AuditPoint:
    """Return the place in the trends of the audit that was compared and judged."""
    first = found.previous_at is None
    return AuditPoint(
        at="",
        outcome=report.outcome,
        training_examples=found.training_examples,
        suspect_share=found.suspects_now / found.training_examples,
        harmful_share=report.metrics.get("harmful_share"),
        mean_query_loss=report.metrics.get("mean_query_loss"),
        trust_lds=report.metrics.get("trust_lds"),
        new=None if first else found.suspects.new,
        persisting=None if first else found.suspects.persisting,
        resolved=None if first else found.suspects.resolved,
        rank_correlation=found.scores.rank_correlation,
    )


def _unordered(found: Comparison) -> str:
    return f"there are {found.scores.examples} unchanged examples, with no order to compare"
