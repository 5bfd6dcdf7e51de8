"""Similarity of what the last attributed layer is given."""

from sourcetrace.core.plan.filters import SegmentFilter
from sourcetrace.core.plan.method import Method

METHOD = Method(
    name="representation_similarity",
    title="Representation similarity",
    remark="final checkpoint",
    description=(
        "compares what the last attributed layer is given, without loss or labels; its "
        "scores rank examples, and self-influence says nothing"
    ),
    citation="",
    make_filter=lambda _: SegmentFilter.constant(1.0),
    evaluates="final checkpoint",
    scoring="representations",
)
