"""What is known of an attribution method, in one record."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from sourcetrace.core.plan.filters import FilterSettings, SegmentFilter

Evaluated = Literal["every checkpoint", "mean weights", "final checkpoint"]
Scoring = Literal["filters", "exact solves", "projections", "representations"]


@dataclass(frozen=True)
class Method:
    """An attribution method; one file of `core.plan.methods` each.

    Attributes:
        name: Value of `attribution.method`.
        title: On the page.
        remark: Beside it, a few words.
        description: What it does, a sentence behind its title.
        citation: The paper; empty where there is none.
        make_filter: F_r and F_S of a segment.
        evaluates: Where gradients are taken: at each checkpoint of a segment, once at the mean of
            its weights, or at the final checkpoint alone, with all data as one stage.
        follows_optimizer: Whether the filters are those of the optimiser's steps, P̄ included.
        scales_curvature: Whether the curvature is multiplied by what the queries' responses
            measure that it misses.
        scoring: How queries become scores (`core.methods.scorers`).
    """

    name: str
    title: str
    remark: str
    description: str
    citation: str
    make_filter: Callable[[FilterSettings], SegmentFilter]
    evaluates: Evaluated
    follows_optimizer: bool = False
    scales_curvature: bool = False
    scoring: Scoring = "filters"
