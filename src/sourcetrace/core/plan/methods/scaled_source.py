"""Scaled Source: Source with each segment's curvature multiplied by what EK-FAC misses."""

from sourcetrace.core.plan.filters import FilterSettings
from sourcetrace.core.plan.method import Method

METHOD = Method(
    name="scaled_source",
    title="Scaled Source",
    remark="Bae et al. 2024, rescaled",
    description=(
        "follows an example's effect through the segments of training (Source, Bae et al. "
        "2024, arXiv 2405.12186), each segment's curvature multiplied by the factor that "
        "it is measured to be too small by"
    ),
    citation="Bae et al. 2024, arXiv 2405.12186",
    make_filter=FilterSettings.training,
    evaluates="every checkpoint",
    follows_optimizer=True,
    scales_curvature=True,
)
