"""Gradient similarity at the final checkpoint."""

from sourcetrace.core.plan.filters import SegmentFilter
from sourcetrace.core.plan.method import Method

METHOD = Method(
    name="gradient_similarity",
    title="Gradient similarity",
    remark="final checkpoint",
    description=(
        "compares gradients at the final checkpoint; its scores rank examples, but their "
        "size is not a predicted change"
    ),
    citation="",
    make_filter=lambda _: SegmentFilter.constant(1.0),
    evaluates="final checkpoint",
)
