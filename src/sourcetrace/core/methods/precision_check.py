"""How far passes and curvature in a lower precision are from float64, on examples of the run."""

import logging
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from sourcetrace.core.curvature.blocks import SegmentCurvature
from sourcetrace.core.engine.gradient_engine import GradientEngine
from sourcetrace.core.machine.nested import to_dtype
from sourcetrace.core.model.examples import EvaluationPoint, spread
from sourcetrace.core.model.precision import Precision, products_in
from sourcetrace.core.plan.plan import PlannedSegment

logger = logging.getLogger(__name__)

_EXAMPLES = 4
"""Each is a gradient of the model's size, twice, in float64."""


@dataclass(frozen=True)
class PrecisionError:
    """How far a lower precision is off.

    Attributes:
        relative: ‖found − exact‖ / ‖exact‖.
        against: Precision of what it was held against.
    """

    relative: float
    against: str = "float64"

    @classmethod
    def of_passes(cls, engine: GradientEngine, point: EvaluationPoint) -> "PrecisionError":
        """Return the error of some examples' gradients, all layers together.

        Held against a copy of the model in float64; against float32 where the task cannot run that,
        whatever it raises.

        Args:
            engine: Whose precision it is.
            point: The weights.
        """
        rows = spread(point.examples, _EXAMPLES)
        found = engine.compute(point, rows, sampled=False)
        against = "float64"
        try:
            exact = engine.exactly(doubled=True).compute(point, rows, sampled=False)
        except Exception as error:
            logger.warning(
                "The task does not run in float64 (%s): passes are held against float32.", error
            )
            against = "float32"
            exact = engine.exactly(doubled=False).compute(point, rows, sampled=False)
        pairs = (
            (found[name].dense().double(), one.dense().double()) for name, one in exact.items()
        )
        return cls(_ratio(pairs), against)

    @classmethod
    def of_curvature(
        cls,
        engine: GradientEngine,
        planned: PlannedSegment,
        curvature: SegmentCurvature,
        *,
        precision: Precision,
    ) -> "PrecisionError":
        """Return the error of some examples' squares in the eigenbasis, which make up Λ.

        That of the covariances is not in it: the eigenbasis is the same on both sides.

        Args:
            engine: Gives their gradients.
            planned: The segment.
            curvature: Of which the eigenbases count.
            precision: In which they are rotated.
        """
        rows = spread(planned.examples, _EXAMPLES)
        gradients = engine.compute(planned.points[-1], rows, sampled=True)

        def pair(name: str) -> tuple[Tensor, Tensor]:
            gradient, basis = gradients[name], curvature[name].basis
            with products_in(precision, engine.device):
                found = gradient.rotated_squares(basis.inputs, basis.outputs)
            exact, exact_basis = to_dtype((gradient, basis), torch.float64)
            return found.double(), exact.rotated_squares(exact_basis.inputs, exact_basis.outputs)

        return cls(_ratio(map(pair, curvature)))  # one layer's at a time


def _ratio(pairs: Iterable[tuple[Tensor, Tensor]]) -> float:
    off, whole = 0.0, 0.0
    for found, exact in pairs:
        off += float((found - exact).square().sum())
        whole += float(exact.square().sum())
    return (off / whole) ** 0.5 if whole else 0.0
