"""What changed since the audit before, as numbers that checks are about."""

from sourcetrace.audit.comparison.summary import Comparison
from sourcetrace.audit.gate.measured import Measured
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


def _unordered(found: Comparison) -> str:
    return f"there are {found.scores.examples} unchanged examples, with no order to compare"
