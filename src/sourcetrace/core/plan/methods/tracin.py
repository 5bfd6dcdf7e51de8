"""TracIn: products of gradients over the checkpoints, weighted by learning rate.

The published sum of learning rate · ⟨∇f, ∇ℓ⟩, whatever the optimiser: a plain yardstick.
"""

from sourcetrace.core.plan.filters import SegmentFilter
from sourcetrace.core.plan.method import Method

METHOD = Method(
    name="tracin",
    title="TracIn",
    remark="gradients alone",
    description=(
        "adds products of gradients over the checkpoints, weighted by learning rate and "
        "without curvature"
    ),
    citation="Pruthi et al. 2020, arXiv 2002.08484",
    make_filter=lambda settings: SegmentFilter.constant(settings.step_mass),
    evaluates="every checkpoint",
)
