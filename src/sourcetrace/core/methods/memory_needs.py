"""What a run holds in memory at once, by the layers' shapes, before any pass.

Beside one batch: the covariance sums of a point, in float64; then eigenbases and the sums of the
corrected eigenvalues, of a group of layers; then their curvature and the queries' responses. What
does not fit into the layers' share of the memory waits on disk, or is taken in groups.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from torch import nn

from sourcetrace.core.curvature.covariance_terms import MAXIMUM_BARE, MAXIMUM_FACTOR
from sourcetrace.core.layers.layer import Layer
from sourcetrace.core.plan.methods import METHODS, SCALING_QUERIES
from sourcetrace.core.plan.plan import AttributionPlan

_DOUBLE = 8
"""Bytes of a number in float64."""

_SHARE = 0.4
"""Of the memory, for layers; a batch and what is written out for a moment need the rest."""

Groups = tuple[tuple[Layer, ...], ...]
"""Layers that are taken together, each in one group."""


@dataclass(frozen=True)
class MemoryNeeds:
    """Bytes that are held at once.

    Attributes:
        weights: Of the model, and of the checkpoints that are kept beside it.
        point: Of the covariances of a point.
        covariances: Of all points.
        curvature: Of all segments, and of fitting one; 0 where the method needs none.
        responses: Of the queries, at most.
        largest: The layer that takes the most in fitting and scoring, and its bytes.
        fitting_groups: Layers that are fitted together.
        scoring_groups: Layers that score together.
        covariances_wait: Whether covariances of a point wait on disk for those of the others.
        together: Whether the method takes all layers at once in any case.
    """

    weights: int
    point: int
    covariances: int
    curvature: int
    responses: int
    largest: tuple[str, int]
    fitting_groups: Groups
    scoring_groups: Groups
    covariances_wait: bool
    together: bool

    @classmethod
    def of(
        cls,
        model: nn.Module,
        layers: Sequence[Layer],
        plan: AttributionPlan,
        method: str,
        *,
        queries: int,
        kept: int,
        free: int,
    ) -> "MemoryNeeds":
        """Return what a run holds.

        Args:
            model: The model.
            layers: The attributed layers.
            plan: Points, segments and members.
            method: Its name.
            queries: Q.
            kept: Bytes of checkpoints' weights that are kept beside the model at most.
            free: Bytes that may be taken.
        """
        tensors = [*model.parameters(), *model.buffers()]
        own = sum(one.numel() * one.element_size() for one in tensors)
        itemsize = next(p.element_size() for p in model.parameters() if p.is_floating_point())
        total, segments = sizes(layers), len(plan.segments)
        checkpoints = {name for point in plan.points for name in point.checkpoints}
        at_once = max(len(member.segments) for member in plan.members)
        curvature = 0
        if plan.uses_curvature:
            # Eigenbases and eigenvalues; and the sums that become one segment's eigenvalues.
            curvature = segments * itemsize * (total["bases"] + total["parameters"])
            curvature += _DOUBLE * total["parameters"]

        def fitting(layer: Layer) -> int:
            """Eigenbases, P̄^½ and eigenvalues, and the sums that become these, or queries."""
            each = sizes([layer])
            rotated = 3 * itemsize * min(queries, SCALING_QUERIES) if record.scales_curvature else 0
            held = itemsize * (each["bases"] + 2 * layer.size)
            held += max(_DOUBLE, rotated) * layer.size
            return held if plan.uses_curvature else 0

        def scoring(layer: Layer) -> int:
            """Responses, their sum, curvature and F_r of every segment; and the mean loss."""
            bases = sizes([layer])["bases"] + 3 * layer.size if plan.uses_curvature else 0
            return itemsize * (at_once * (bases + (queries + 2) * layer.size) + layer.size)

        record, budget = METHODS[method], int(_SHARE * free)
        everything: Groups = (tuple(layers),)
        together = record.unit_norm or record.scoring != "filters"
        most = max(layers, key=lambda layer: max(fitting(layer), scoring(layer)))
        point = _DOUBLE * total["covariances"] if plan.uses_curvature else 0
        return cls(
            own * (1 + min(len(checkpoints), kept // own)),
            point,
            len(plan.points) * point,
            curvature,
            segments * (queries + 1) * itemsize * total["parameters"],
            (most.name, max(fitting(most), scoring(most))),
            _groups(((layer, fitting(layer)) for layer in layers), budget),
            everything
            if together
            else _groups(((layer, scoring(layer)) for layer in layers), budget),
            len(plan.points) * point > budget,
            together,
        )

    @property
    def least(self) -> int:
        """What cannot be done without."""
        held = max(self.curvature, self.responses) if self.together else self.largest[1]
        return self.weights + max(self.point, held)

    @property
    def most(self) -> int:
        """With everything held that could be, and responses written out."""
        held = max(self.covariances, self.curvature + self.responses)
        return max(self.least, self.weights + held)


def _groups(needs: Iterable[tuple[Layer, int]], budget: int) -> Groups:
    """Return consecutive layers that together take no more than a budget, or one alone does."""
    groups: list[list[Layer]] = []
    left = 0
    for layer, need in needs:
        if not groups or need > left:
            groups.append([])
            left = budget
        groups[-1].append(layer)
        left -= need
    return tuple(map(tuple, groups))


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
