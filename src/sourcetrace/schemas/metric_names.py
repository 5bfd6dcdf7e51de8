"""What a check can be about: each metric's name, its meaning, and what to do about it."""

from dataclasses import dataclass
from typing import Literal

GateMetric = Literal[
    "harmful_share",
    "relabel_share",
    "unstable_share",
    "class_concentration",
    "slice_concentration",
    "attributed_share",
    "mean_query_loss",
    "training_examples",
    "trust_verified",
    "trust_lds",
    "trust_lds_low",
    "trust_lds_of_ceiling",
    "new_suspect_share",
    "persisting_suspect_share",
    "score_rank_correlation",
    "curvature_distance",
    "changed_example_share",
]


@dataclass(frozen=True)
class MetricDescription:
    """What a reader of the gate is told of a metric.

    Attributes:
        meaning: What it is.
        advice: What to do when its limit is exceeded.
    """

    meaning: str
    advice: str


_CONCENTRATION = (
    "Filter the review list by it and look at the first ten: a labelling rule, an import or a "
    "source that changed usually shows at once."
)
_TRUST = (
    "Do not act on single scores. Run `kedro run --pipelines verification` with more subsets or "
    "seeds, or look at docs/verification.md for what lowers the figure."
)

METRICS: dict[GateMetric, MetricDescription] = {
    "harmful_share": MetricDescription(
        "Share of the training examples whose removal would help the queries, the sign being "
        "certain (harm above 0 and sign_stable).",
        "Work through review_list.csv from the top; compare with what was added "
        "to the training data since the last audit that passed.",
    ),
    "relabel_share": MetricDescription(
        "Share of the training examples that the review list suggests to relabel.",
        "Open cleaning_report.html and check the first suspects' labels; many "
        "wrong ones mean that a batch of labels went wrong.",
    ),
    "unstable_share": MetricDescription(
        "Share of the suspects whose harm has no stable sign.",
        "Save more checkpoints, or ask more queries: the review list is too uncertain to act on.",
    ),
    "class_concentration": MetricDescription(
        "Of the given labels with enough examples the largest ratio of a label's share of all "
        "harm to its share of the examples; 1 where harm is spread evenly.",
        _CONCENTRATION,
    ),
    "slice_concentration": MetricDescription(
        "The same for the values of the training table's columns named in gate.slice_columns.",
        _CONCENTRATION,
    ),
    "attributed_share": MetricDescription(
        "Share of the model's parameters that carry attribution.",
        "unattributed_parameters.parquet names the others and why; register "
        "the layer, or accept the share by a lower limit.",
    ),
    "mean_query_loss": MetricDescription(
        "Mean loss of the queries at the final checkpoint.",
        "The model itself got worse on the queries, or the queries changed: compare both with the "
        "baseline's before reading the review list.",
    ),
    "training_examples": MetricDescription(
        "Number of training examples audited.",
        "Check that the training data were read completely, then approve a new baseline.",
    ),
    "trust_verified": MetricDescription(
        "1 where a verification by retraining was of these very scores, else 0.",
        "Run `kedro run --pipelines verification`; it judges again.",
    ),
    "trust_lds": MetricDescription(
        "Rank correlation of predicted and retrained outcomes (linear datamodeling score).",
        _TRUST,
    ),
    "trust_lds_low": MetricDescription(
        "Lower end of the 95 % interval of that rank correlation.",
        _TRUST,
    ),
    "trust_lds_of_ceiling": MetricDescription(
        "That rank correlation as a share of what retraining noise allows.",
        _TRUST,
    ),
    "new_suspect_share": MetricDescription(
        "Share of the training examples that are suspects now and were none in the audit before.",
        "data/08_reporting/audit_comparison.parquet has them under status new; look at what was "
        "added or relabelled since that audit.",
    ),
    "persisting_suspect_share": MetricDescription(
        "Share of the training examples that were suspects in the audit before and still are.",
        "Somebody is to look at them: correct the label, remove the example, or accept the share "
        "by a higher limit.",
    ),
    "score_rank_correlation": MetricDescription(
        "Rank correlation of harm in this audit and the one before, over the unchanged examples.",
        "Compare what else changed: method, parameters, queries, checkpoints. Where nothing did, "
        "training is too noisy for one run's scores; average several runs (docs/ensembles.md).",
    ),
    "curvature_distance": MetricDescription(
        "Of all layers the largest mean distance of the eigenvalues' quantiles from the audit "
        "before, in powers of ten.",
        "The page names the layers; a changed architecture, learning rate or length of training "
        "usually explains it.",
    ),
    "changed_example_share": MetricDescription(
        "Examples added, removed, relabelled or edited since the audit before, as a share of the "
        "training examples of both audits together.",
        "Check that the change was meant: data/08_reporting/audit_comparison.parquet names every "
        "example.",
    ),
}

TRUST_PREFIX = "trust_"
"""Of the metrics that say how far the others can be believed."""
