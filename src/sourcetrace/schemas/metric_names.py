"""What a check can be about: each metric's name, and what to do about it."""

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
    "curvature_moved_share",
]


_CONCENTRATION = (
    "Filter the review list by it and look at the first ten: a labelling rule, an import or a "
    "source that changed usually shows at once."
)
_TRUST = (
    "Do not act on single scores. Run `kedro run --pipelines verification` with more subsets or "
    "seeds, or look at docs/reference/verification.md for what lowers the figure."
)

METRICS: dict[GateMetric, str] = {
    "harmful_share": (
        "Work through review_list.csv from the top; compare with what was added to the training "
        "data since the last audit that passed."
    ),
    "relabel_share": (
        "Open cleaning_report.html and check the first suspects' labels; many wrong ones mean "
        "that a batch of labels went wrong."
    ),
    "unstable_share": (
        "Save more checkpoints, or ask more queries: the review list is too uncertain to act on."
    ),
    "class_concentration": _CONCENTRATION,
    "slice_concentration": _CONCENTRATION,
    "attributed_share": (
        "unattributed_parameters.parquet names the others and why; register the layer, or accept "
        "the share by a lower limit."
    ),
    "mean_query_loss": (
        "The model itself got worse on the queries, or the queries changed: compare both with the "
        "baseline's before reading the review list."
    ),
    "training_examples": (
        "Check that the training data were read completely, then approve a new baseline."
    ),
    "trust_verified": ("Run `kedro run --pipelines verification`; it judges again."),
    "trust_lds": _TRUST,
    "trust_lds_low": _TRUST,
    "trust_lds_of_ceiling": _TRUST,
    "new_suspect_share": (
        "data/08_reporting/audit_comparison.parquet has them under status new; look at what was "
        "added or relabelled since that audit."
    ),
    "persisting_suspect_share": (
        "Somebody is to look at them: correct the label, remove the example, or accept the share "
        "by a higher limit."
    ),
    "score_rank_correlation": (
        "Compare what else changed: method, parameters, queries, checkpoints. Where nothing did, "
        "training is too noisy for one run's scores; average several runs "
        "(docs/reference/ensembles.md)."
    ),
    "curvature_distance": (
        "The page names the layers; a changed architecture, learning rate or length of training "
        "usually explains it."
    ),
    "changed_example_share": (
        "Check that the change was meant: data/08_reporting/audit_comparison.parquet names every "
        "example."
    ),
    "curvature_moved_share": (
        "Set attribution.kept_curvature to 0 and run the audit again: it computes the curvature of "
        "the examples that are there now."
    ),
}
"""Metric -> what to do when its limit is exceeded; docs/reference/audits.md says what each is."""

TRUST_PREFIX = "trust_"
"""Of the metrics that say how far the others can be believed."""
