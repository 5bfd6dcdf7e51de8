"""The attribution methods: one more record here is one more of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from sourcetrace.core.plan.filters import FilterSettings, SegmentFilter

_Evaluated = Literal["every checkpoint", "mean weights", "final checkpoint"]
_Scoring = Literal["filters", "exact solves", "projections", "representations"]

SCALING_EXAMPLES = 512
"""Training examples whose gradients at a point stand for its Fisher matrix, memory allowing."""

SCALING_TRIALS = (1.0, 6.0, 36.0)
"""Factors c_k whose responses are combined."""

_SCALING_QUERIES = 32, 64
"""Queries whose responses measure how much larger the curvature is; they share the factors."""

_SCALING_NUMBERS = 2**28
"""Bound on the numbers of their responses, unless they are the fewest."""


def scaling_queries(queries: int, parameters: int) -> int:
    """Return how many of the queries measure the curvature's scale."""
    fewest, most = _SCALING_QUERIES
    return min(queries, most, max(fewest, _SCALING_NUMBERS // parameters))


@dataclass(frozen=True)
class _Method:
    """An attribution method.

    Attributes:
        name: Value of `attribution.method`.
        title: On the page.
        remark: Beside it, a few words.
        description: What it does, a sentence behind its title.
        make_filter: F_r and F_S of a segment.
        evaluates: Where gradients are taken: at each checkpoint of a segment, once at the mean of
            its weights, or at the final checkpoint alone, with all data as one stage.
        follows_optimizer: Whether the filters are those of the optimiser's steps, P̄ included.
        scales_curvature: Whether the curvature is multiplied by what the queries' responses
            measure that it misses.
        unit_norm: Whether an example's gradient counts by its direction alone, at each point;
            in self-influence on both sides.
        scoring: How queries become scores (`core.methods.scorers`).
    """

    name: str
    title: str
    remark: str
    description: str
    make_filter: Callable[[FilterSettings], SegmentFilter]
    evaluates: _Evaluated = "final checkpoint"
    follows_optimizer: bool = False
    scales_curvature: bool = False
    unit_norm: bool = False
    scoring: _Scoring = "filters"


def _unfiltered(_: FilterSettings) -> SegmentFilter:
    return SegmentFilter.constant(1.0)


_RECORDS = (
    _Method(
        "astra_influence",
        "ASTRA influence",
        "final checkpoint, exact curvature",
        "looks at the final checkpoint alone and solves with its damped exact "
        "Gauss–Newton matrix, at the cost of a forward pass and, for each query, two "
        "backward passes of a sample of the training data in every iteration; "
        "self-influence stays EK-FAC's (arXiv 2507.14740)",
        FilterSettings.solved_inverse,
        scoring="exact solves",
    ),
    _Method(
        "astra_source",
        "ASTRA-Source",
        "arXiv 2507.14740",
        "is Source with each segment's system solved with the exact Gauss–Newton matrix, "
        "at the cost of a forward pass and, for each query, two backward passes of a "
        "sample of the training data in every iteration; self-influence stays EK-FAC's "
        "(arXiv 2507.14740)",
        FilterSettings.solved_training,
        evaluates="every checkpoint",
        follows_optimizer=True,
        scoring="exact solves",
    ),
    _Method(
        "fast_source",
        "Fast-Source",
        "Bae et al. 2024",
        "is Source with gradients and curvature taken once a segment, at the mean of its "
        "weights (Bae et al. 2024, arXiv 2405.12186)",
        FilterSettings.training,
        evaluates="mean weights",
        follows_optimizer=True,
    ),
    _Method(
        "gradient_similarity",
        "Gradient similarity",
        "final checkpoint",
        "compares gradients at the final checkpoint; its scores rank examples, but their "
        "size is not a predicted change",
        _unfiltered,
    ),
    # Grosse et al. 2023, arXiv 2308.03296.
    _Method(
        "influence",
        "Influence function",
        "final checkpoint, EK-FAC",
        "looks at the final checkpoint alone, with damped EK-FAC curvature",
        FilterSettings.damped_inverse,
    ),
    _Method(
        "representation_similarity",
        "Representation similarity",
        "final checkpoint",
        "compares what the last attributed layer is given, without loss or labels; its "
        "scores rank examples, and self-influence says nothing",
        _unfiltered,
        scoring="representations",
    ),
    # Diffusion-ReTrac, arXiv 2401.09031, which is for diffusion models and holds for any.
    _Method(
        "retrac",
        "ReTrac",
        "Xie et al. 2024, directions alone",
        "is TracIn with every training gradient divided by its norm, so that no example matters to "
        "all queries for its large gradient; its scores rank examples, but their size is not a "
        "predicted change (Xie et al. 2024, arXiv 2401.09031)",
        lambda settings: SegmentFilter.constant(settings.step_mass),
        evaluates="every checkpoint",
        unit_norm=True,
    ),
    _Method(
        "scaled_source",
        "Scaled Source",
        "Bae et al. 2024, rescaled",
        "follows an example's effect through the segments of training (Source, Bae et al. "
        "2024, arXiv 2405.12186), every layer's curvature multiplied by the factor that "
        "it is measured to be too small by",
        FilterSettings.training,
        evaluates="every checkpoint",
        follows_optimizer=True,
        scales_curvature=True,
    ),
    _Method(
        "source",
        "Source",
        "Bae et al. 2024",
        "follows an example's effect through the segments of training, each with its own "
        "curvature (Bae et al. 2024, arXiv 2405.12186)",
        FilterSettings.training,
        evaluates="every checkpoint",
        follows_optimizer=True,
    ),
    # Pruthi et al. 2020, arXiv 2002.08484: the published sum of learning rate · ⟨∇f, ∇ℓ⟩, whatever
    # the optimiser; a plain yardstick.
    _Method(
        "tracin",
        "TracIn",
        "gradients alone",
        "adds products of gradients over the checkpoints, weighted by learning rate and "
        "without curvature",
        lambda settings: SegmentFilter.constant(settings.step_mass),
        evaluates="every checkpoint",
    ),
    _Method(
        "trak",
        "TRAK",
        "Park et al. 2023",
        "compares randomly projected gradients at the final checkpoint, whitened by those "
        "of the training data; its scores rank examples (Park et al. 2023, arXiv "
        "2303.14186)",
        _unfiltered,
        scoring="projections",
    ),
)

METHODS: Mapping[str, _Method] = {one.name: one for one in _RECORDS}
"""By name."""
