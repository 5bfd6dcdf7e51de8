"""Fast-Source: Source at the mean of each segment's weights."""

from sourcetrace.core.plan.filters import FilterSettings
from sourcetrace.core.plan.method import Method

METHOD = Method(
    name="fast_source",
    title="Fast-Source",
    remark="Bae et al. 2024",
    description=(
        "is Source with gradients and curvature taken once a segment, at the mean of its "
        "weights (Bae et al. 2024, arXiv 2405.12186)"
    ),
    citation="Bae et al. 2024, arXiv 2405.12186",
    make_filter=FilterSettings.training,
    evaluates="mean weights",
    follows_optimizer=True,
)
