"""ASTRA-Source: Source with segment responses by exact solves."""

from sourcetrace.core.plan.filters import FilterSettings
from sourcetrace.core.plan.method import Method

METHOD = Method(
    name="astra_source",
    title="ASTRA-Source",
    remark="arXiv 2507.14740",
    description=(
        "is Source with each segment's system solved with the exact Gauss–Newton matrix, "
        "at the cost of a forward pass and, for each query, two backward passes of a "
        "sample of the training data in every iteration; self-influence stays EK-FAC's "
        "(arXiv 2507.14740)"
    ),
    citation="arXiv 2507.14740",
    make_filter=FilterSettings.solved_training,
    evaluates="every checkpoint",
    follows_optimizer=True,
    scoring="exact solves",
)
