"""Gradients of a few examples, spread evenly, where a run measures itself."""

from dataclasses import replace

import torch
from torch import Tensor

from sourcetrace.core.curvature.covariance import sums_of
from sourcetrace.core.engine.gradient_engine import Extraction, GradientEngine
from sourcetrace.core.gradients.per_example import LayerGradient, concatenate
from sourcetrace.core.model.evaluation_point import EvaluationPoint
from sourcetrace.core.model.examples import Block

_FEWEST = 32
"""Examples however large their gradients are; a mean over fewer says little."""

PROBE = 8
"""Examples that say what one takes."""


def spread(examples: Tensor, count: int) -> Tensor:
    """Return at most `count` of the examples, at even distances."""
    places = torch.linspace(0, len(examples) - 1, min(count, len(examples)))
    return examples[places.round().long()]


def affordable(engine: GradientEngine, *, most: int, limit: int, points: int = 1) -> int:
    """Return how many examples' gradients to take.

    Args:
        engine: Whose model it is.
        most: Bound on them.
        limit: Bound on the bytes of their gradients, were all of them dense.
        points: At how many points they are kept at once.
    """
    each = sum(layer.size for layer in engine.coverage.layers) * engine.dtype.itemsize
    return min(most, max(_FEWEST, limit // (each * points)))


def probe_point(engine: GradientEngine, point: EvaluationPoint) -> Extraction:
    """Return what the passes of `PROBE` examples give, as one batch; nothing is cached."""
    rows = spread(point.examples, PROBE)
    part = replace(point, examples=rows, curvature_examples=rows)
    extraction = engine.extract(part, Block(0, len(engine.training)), keep=False)
    # Nobody needs their sums, but what an example takes.
    with engine.work.counted("covariances", units=len(rows)):
        sums_of(extraction.covariances)
    return extraction


def sample_gradients(
    engine: GradientEngine, point: EvaluationPoint, examples: Tensor, *, sampled: bool = False
) -> dict[str, LayerGradient]:
    """Return the gradients of these examples alone; nothing is cached.

    Args:
        engine: Whose model it is.
        point: The weights.
        examples: Their numbers.
        sampled: Whether of sampled labels, or of the given ones.
    """
    parts = torch.split(examples, engine.batch_size)
    return concatenate([engine.compute(point, rows, sampled=sampled) for rows in parts])
