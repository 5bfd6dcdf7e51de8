"""What a run holds in memory at once, by the layers' shapes, before any pass.

A lower bound, beside one batch: the covariance sums of every point, in float64, to the end of the
extraction; then every segment's curvature, and the sums of one segment's corrected eigenvalues.
The queries' responses are another, at most: low-rank sums take their place where that is cheaper.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from sourcetrace.core.curvature.covariance_terms import MAXIMUM_BARE, MAXIMUM_FACTOR
from sourcetrace.core.layers.layer import Layer
from sourcetrace.core.plan.plan import AttributionPlan

_DOUBLE = 8
"""Bytes of a number in float64."""


@dataclass(frozen=True)
class MemoryNeeds:
    """Bytes that are held at once.

    Attributes:
        weights: Of the model, and of the checkpoints that are kept beside it.
        covariances: Of all points.
        curvature: Of all segments; 0 where the method needs none.
        responses: Of the queries, at most.
        largest: The layer whose covariances are the largest, and their bytes at one point.
    """

    weights: int
    covariances: int
    curvature: int
    responses: int
    largest: tuple[str, int]

    @classmethod
    def of(
        cls,
        model: nn.Module,
        layers: Sequence[Layer],
        plan: AttributionPlan,
        *,
        queries: int,
        kept: int,
    ) -> "MemoryNeeds":
        """Return what a run holds.

        Args:
            model: The model.
            layers: The attributed layers.
            plan: Points, segments and members.
            queries: Q.
            kept: Bytes of checkpoints' weights that are kept beside the model at most.
        """
        tensors = [*model.parameters(), *model.buffers()]
        own = sum(one.numel() * one.element_size() for one in tensors)
        itemsize = next(p.element_size() for p in model.parameters() if p.is_floating_point())
        total, segments = sizes(layers), len(plan.segments)
        checkpoints = {name for point in plan.points for name in point.checkpoints}
        curvature = 0
        if plan.uses_curvature:
            # Eigenbases and eigenvalues; and the sums that become one segment's eigenvalues.
            curvature = segments * itemsize * (total["bases"] + total["parameters"])
            curvature += _DOUBLE * total["parameters"]
        largest = max(layers, key=lambda layer: sizes([layer])["covariances"])
        return cls(
            own * (1 + min(len(checkpoints), kept // own)),
            _DOUBLE * len(plan.points) * total["covariances"],
            curvature,
            segments * (queries + 1) * itemsize * total["parameters"],
            (largest.name, _DOUBLE * sizes([largest])["covariances"]),
        )

    @property
    def least(self) -> int:
        """What cannot be done without."""
        return self.weights + max(self.covariances, self.curvature)

    @property
    def most(self) -> int:
        """With responses written out."""
        return max(self.least, self.weights + self.curvature + self.responses)


def sides(layer: Layer) -> tuple[int, int]:
    """Return the widths of a layer's eigenbases, 0 for a side whose eigenbasis is the identity."""
    inputs = 0 if layer.indexed or layer.inputs > MAXIMUM_FACTOR else layer.inputs
    widest = MAXIMUM_BARE if layer.bare else MAXIMUM_FACTOR
    return inputs, 0 if layer.outputs > widest else layer.outputs


def sizes(layers: Sequence[Layer]) -> Counter[str]:
    """Return how many numbers all layers together have: `parameters`, `covariances`, `bases`."""
    total: Counter[str] = Counter()
    for layer in layers:
        inputs, outputs = sides(layer)
        squares = inputs**2, outputs**2
        total.update(
            parameters=layer.size,
            covariances=layer.groups
            * ((squares[0] or layer.inputs) + (squares[1] or layer.outputs)),
            bases=layer.groups * sum(squares),
        )
    return total
