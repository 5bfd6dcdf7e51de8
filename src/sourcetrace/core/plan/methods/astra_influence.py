"""The influence function with exact solves."""

from sourcetrace.core.plan.filters import FilterSettings
from sourcetrace.core.plan.method import Method

METHOD = Method(
    name="astra_influence",
    title="ASTRA influence",
    remark="final checkpoint, exact curvature",
    description=(
        "looks at the final checkpoint alone and solves with its damped exact "
        "Gauss–Newton matrix, at the cost of a forward pass and, for each query, two "
        "backward passes of a sample of the training data in every iteration; self- "
        "influence stays EK-FAC's (arXiv 2507.14740)"
    ),
    citation="arXiv 2507.14740",
    make_filter=FilterSettings.solved_inverse,
    evaluates="final checkpoint",
    scoring="exact solves",
)
