"""TRAK: randomly projected gradients at the final checkpoint."""

from sourcetrace.core.plan.filters import SegmentFilter
from sourcetrace.core.plan.method import Method

METHOD = Method(
    name="trak",
    title="TRAK",
    remark="Park et al. 2023",
    description=(
        "compares randomly projected gradients at the final checkpoint, whitened by those "
        "of the training data; its scores rank examples (Park et al. 2023, arXiv "
        "2303.14186)"
    ),
    citation="Park et al. 2023, arXiv 2303.14186",
    make_filter=lambda _: SegmentFilter.constant(1.0),
    evaluates="final checkpoint",
    scoring="projections",
)
