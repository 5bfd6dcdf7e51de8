"""What a run holds in memory at once, by the layers' shapes, before any pass.

One rule for all stages. Beside one batch, extraction holds the covariance sums of a point, in
float64; fitting a segment's eigenbases and the sums of its corrected eigenvalues; scoring the
curvature and the queries' responses of all segments. What is made of other points and segments
waits on disk. Where a stage's share of the memory does not hold these of all layers, they are taken
in groups.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from torch import nn

from sourcetrace.core.curvature.covariance_terms import MAXIMUM_BARE, MAXIMUM_FACTOR
from sourcetrace.core.layers.layer import Layer
from sourcetrace.core.plan.methods import METHODS, scaling_queries
from sourcetrace.core.plan.plan import AttributionPlan
from sourcetrace.core.responses.propagation import AT_ONCE

_DOUBLE = 8
"""Bytes of a number in float64."""

_SHARE = 0.4
"""Of the memory, for layers; a batch and its products need the rest."""

Groups = tuple[tuple[Layer, ...], ...]
"""Layers that are taken together, each in one group."""


class _LayerNeeds(NamedTuple):
    """Bytes that a stage takes for a layer.

    Attributes:
        held: While its group is worked on.
        moment: Beside it, for a moment, of one layer at a time.
    """

    held: int
    moment: int


@dataclass(frozen=True)
class StageNeeds:
    """Bytes that a stage holds of layers at once.

    Attributes:
        groups: Layers that are taken together.
        least: Of the layer that takes the most; of all, if `largest` is empty.
        largest: The name of that layer; empty where the method takes all layers at once.
        most: Were all layers taken at once.
        held: Of the group that takes the most.
    """

    groups: Groups
    least: int
    largest: str
    most: int
    held: int

    @classmethod
    def of(
        cls,
        layers: Sequence[Layer],
        need: Callable[[Layer], _LayerNeeds],
        budget: int,
        *,
        together: bool = False,
    ) -> "StageNeeds":
        """Group layers so that each group is within a budget, if a layer alone is.

        Args:
            layers: The attributed layers.
            need: What the stage takes for one.
            budget: Bytes.
            together: Whether the method takes all layers at once in any case.
        """
        needs = [need(layer) for layer in layers]
        groups = [(0, len(layers))] if together else list(_groups(needs, budget))
        alone = max(range(len(layers)), key=lambda index: _together([needs[index]]))
        return cls(
            groups=tuple(tuple(layers[start:stop]) for start, stop in groups),
            least=_together(needs if together else [needs[alone]]),
            largest="" if together else layers[alone].name,
            most=_together(needs),
            held=max(_together(needs[start:stop]) for start, stop in groups),
        )


@dataclass(frozen=True)
class MemoryNeeds:
    """Bytes that are held at once.

    Attributes:
        weights: Of the model, and of the checkpoints that are kept or loaded beside it.
        weights_on_disk: Of those that are not kept.
        extraction: Covariances of a point.
        fitting: Eigenbases and eigenvalues of a segment.
        scoring: Curvature and the queries' responses, of all segments.
    """

    weights: int
    weights_on_disk: int
    extraction: StageNeeds
    fitting: StageNeeds
    scoring: StageNeeds

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
        checkpoints = {name for point in plan.points for name in point.checkpoints}
        record, curved = METHODS[method], plan.uses_curvature
        at_once = max(len(member.segments) for member in plan.members)
        few = scaling_queries(queries, sum(layer.size for layer in layers))
        rotated = 3 * itemsize * few if record.scales_curvature else 0

        def extraction(layer: Layer) -> _LayerNeeds:
            """The sums, and a product before it is added, or their bytes as they are written."""
            sums = _DOUBLE * sizes([layer])["covariances"]
            return _LayerNeeds(sums, sums)

        def fitting(layer: Layer) -> _LayerNeeds:
            """Eigenbases, P̄^½ and eigenvalues, and the sums that become these, or queries.

            A layer's covariances are read, averaged and decomposed by itself.
            """
            if not curved:
                return _LayerNeeds(0, 0)
            each = sizes([layer])
            block = itemsize * (each["bases"] + 2 * layer.size)
            decomposed = 4 * _DOUBLE * each["covariances"]
            held = block + max(_DOUBLE, rotated) * layer.size
            return _LayerNeeds(held, decomposed)

        def scoring(layer: Layer) -> _LayerNeeds:
            """Curvature, responses and their sum of every segment; queries and their mean loss.

            Some rows of a layer at a time are rotated, filtered and rotated back.
            """
            bases = sizes([layer])["bases"] + 2 * layer.size if curved else 0
            responses = (queries + 2) * layer.size
            held = itemsize * (at_once * (bases + responses) + (queries + 1) * layer.size)
            row = itemsize * layer.size
            return _LayerNeeds(held, 3 * row * min(queries, max(1, AT_ONCE // row)))

        budget = int(_SHARE * free)
        together = record.unit_norm or record.scoring != "filters"
        return cls(
            # One is loaded in any case.
            own * (1 + (min(len(checkpoints), max(1, kept // own)) if kept else 0)),
            own * len(checkpoints) if own > kept else 0,
            StageNeeds.of(layers, extraction, budget),
            StageNeeds.of(layers, fitting, budget),
            StageNeeds.of(layers, scoring, budget, together=together),
        )

    @property
    def stages(self) -> dict[str, StageNeeds]:
        """The stages by name, in their order."""
        return {
            "Gradient extraction": self.extraction,
            "EK-FAC fitting": self.fitting,
            "Source scoring": self.scoring,
        }

    @property
    def group_counts(self) -> tuple[int, int, int]:
        """How many groups of layers each stage takes, in their order."""
        return len(self.extraction.groups), len(self.fitting.groups), len(self.scoring.groups)

    @property
    def least(self) -> int:
        """What cannot be done without."""
        return self.weights + max(stage.least for stage in self.stages.values())

    @property
    def most(self) -> int:
        """With everything held that could be, and responses written out."""
        return self.weights + max(stage.most for stage in self.stages.values())


def _together(needs: Sequence[_LayerNeeds]) -> int:
    return sum(one.held for one in needs) + max(one.moment for one in needs)


def _groups(needs: Sequence[_LayerNeeds], budget: int) -> Iterable[tuple[int, int]]:
    """Yield ranges of layers that together take no more than a budget, or one alone does."""
    start = 0
    for stop in range(1, len(needs) + 1):
        if stop == len(needs) or _together(needs[start : stop + 1]) > budget:
            yield start, stop
            start = stop


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
