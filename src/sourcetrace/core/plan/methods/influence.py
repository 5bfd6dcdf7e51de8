"""The influence function at the final checkpoint, with damped EK-FAC curvature."""

from sourcetrace.core.plan.filters import FilterSettings
from sourcetrace.core.plan.method import Method

METHOD = Method(
    name="influence",
    title="Influence function",
    remark="final checkpoint, EK-FAC",
    description="looks at the final checkpoint alone, with damped EK-FAC curvature",
    citation="Grosse et al. 2023, arXiv 2308.03296",
    make_filter=FilterSettings.damped_inverse,
    evaluates="final checkpoint",
)
