"""Scores by low-rank sums against those of the exact filters, on pairs of the run itself.

A sample of queries and training examples is scored once with the responses as they are to be
used and once by the exact filters. The relative error of the one against the other, over all
layers and segments, must be within the tolerance; the sums are made again, longer, until it is.
The gradients are those of sampled labels, so that a label that is corrected changes no response.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import TypeVar

import torch
from torch import Tensor

from sourcetrace.core.engine.gradient_engine import GradientEngine
from sourcetrace.core.engine.samples import sample_gradients
from sourcetrace.core.gradients.per_example import Gradients
from sourcetrace.core.model.examples import spread
from sourcetrace.core.model.precision import Precision, products_in
from sourcetrace.core.plan.plan import EnsembleMember
from sourcetrace.core.responses.low_rank_responses import LayerChoice, LayerResponse
from sourcetrace.core.responses.propagation import Vectors, row_count

_QUERIES = 4
_EXAMPLES = 64
"""The sample of pairs."""

_SAMPLE_BYTES = 2**31
"""Bound on the gradients of the sample, were all of them dense."""

_FIRST_AIM = 1.2
"""What is left out of a filter overstates the error of scores by more than that, as a rule."""

_TIGHTER = 0.8
"""Of the aim by which the measured error would have been the tolerance."""

_ATTEMPTS = 4

_Made = TypeVar("_Made")


@dataclass(frozen=True)
class ScoreCheck:
    """How far the scores are from those of the exact filters.

    Attributes:
        error: Relative error over a sample of pairs, ‖s − s_exact‖ / ‖s_exact‖.
        tolerance: What it was to be within.
        choices: A layer and segment each.
        precision: Of the products.
        refused: The error that a lower precision would have had, where it was too large.
    """

    error: float
    tolerance: float
    choices: tuple[LayerChoice, ...]
    precision: Precision = "float32"
    refused: float | None = None


def settle(
    tolerance: float, attempt: Callable[[float], tuple[_Made, ScoreCheck]]
) -> tuple[_Made, ScoreCheck]:
    """Return responses whose scores are within a tolerance, and their check.

    Args:
        tolerance: Of the relative error of the scores.
        attempt: Makes and checks them for an error that is aimed at; 0 for the exact filters.
    """
    aim = _FIRST_AIM * tolerance
    for left in range(_ATTEMPTS, -1, -1):
        found, check = attempt(aim)
        if check.error <= tolerance:
            break
        aim = aim * _TIGHTER * tolerance / check.error if left > 1 else 0.0
    return found, check


def checked_queries(count: int) -> Tensor:
    """Return which of some queries' scores are checked."""
    return spread(torch.arange(count), _QUERIES)


def check_scores(
    engine: GradientEngine,
    member: EnsembleMember,
    segments: Sequence[Mapping[str, LayerResponse]],
    choices: tuple[LayerChoice, ...],
    *,
    tolerance: float,
    precision: Precision = "float32",
) -> ScoreCheck:
    """Return how far the scores are from those of the exact filters, and how they are multiplied.

    Args:
        engine: Gives the sample's training gradients, at the last checkpoint of every segment.
        member: Segments and filters.
        segments: Responses of all layers.
        choices: How each is computed; none where they are exact, whatever they are.
        tolerance: Of the relative error.
        precision: Of the products with training gradients, where the tolerance allows it.
    """
    lower = bool(choices) and precision != "float32" and tolerance > 0
    if not lower and not any(one.terms for one in choices):
        return ScoreCheck(0.0, tolerance, choices)
    count = engine.affordable(most=_EXAMPLES, limit=_SAMPLE_BYTES, points=len(member.segments))
    gradients = [
        sample_gradients(engine, one.points[-1], spread(one.examples, count), sampled=True)
        for one in member.segments
    ]
    exact = _scores([{k: _exact(v) for k, v in one.items()} for one in segments], gradients)

    def error(precision: Precision) -> float:
        used = [{k: _used(v, precision) for k, v in one.items()} for one in segments]
        with products_in(precision, engine.device):
            return _relative_error(_scores(used, gradients), exact)

    plain = error("float32")
    if not lower or plain > tolerance:
        return ScoreCheck(plain, tolerance, choices)
    rounded = error(precision)
    if rounded <= tolerance:
        return ScoreCheck(rounded, tolerance, choices, precision)
    return ScoreCheck(plain, tolerance, choices, refused=rounded)


def _scores(
    responses: Sequence[Mapping[str, Vectors]], gradients: Sequence[Gradients]
) -> list[Tensor]:
    return [
        reduce(torch.add, (own[name].products(one) for name, one in segment.items()))
        for segment, own in zip(responses, gradients, strict=True)
    ]


def _exact(one: LayerResponse) -> Vectors:
    return _used(one) if one.exact is None else one.exact


def _used(one: LayerResponse, precision: Precision = "float32") -> Vectors:
    """Return the checked queries' rows; the measurements' come first."""
    response = one.multiplied_in(precision)
    rows = checked_queries(row_count(response) - 1)
    measured = response[0] if isinstance(response, tuple) else response
    return measured[rows] if isinstance(measured, Tensor) else measured.rows(rows)


def _relative_error(found: Sequence[Tensor], exact: Sequence[Tensor]) -> float:
    """Return ‖s − s_exact‖ / ‖s_exact‖ over all segments."""
    pairs = [(one.double(), other.double()) for one, other in zip(found, exact, strict=True)]
    off = sum(float((one - other).square().sum()) for one, other in pairs)
    whole = sum(float(other.square().sum()) for _, other in pairs)
    return (off / whole) ** 0.5 if whole else 0.0
