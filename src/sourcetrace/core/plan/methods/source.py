"""Source: approximate unrolled differentiation, segment by segment."""

from sourcetrace.core.plan.filters import FilterSettings
from sourcetrace.core.plan.method import Method

METHOD = Method(
    name="source",
    title="Source",
    remark="Bae et al. 2024",
    description=(
        "follows an example's effect through the segments of training, each with its own "
        "curvature (Bae et al. 2024, arXiv 2405.12186)"
    ),
    citation="Bae et al. 2024, arXiv 2405.12186",
    make_filter=FilterSettings.training,
    evaluates="every checkpoint",
    follows_optimizer=True,
)
