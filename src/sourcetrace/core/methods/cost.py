"""What a run will cost, before it starts: seconds, and bytes that are kept, by stage.

Passes and covariances take what a batch of the run took (`core.engine.samples`); the rest
is multiplications, by the layers' shapes, at the rate of large products in the same process, which
it cannot do without. Two are upper bounds: scoring, where low-rank sums may take the place of
written-out responses, and self-influence, for the same reason. N examples, Q queries, P attributed
parameters; a *visit* is an example at a point.
"""

from dataclasses import dataclass

from sourcetrace.core.curvature.blocks import CUBES_OF_EIGENVECTORS
from sourcetrace.core.curvature.covariance_terms import MAXIMUM_FACTOR
from sourcetrace.core.engine.gradient_engine import GradientEngine
from sourcetrace.core.engine.samples import TimedProbe
from sourcetrace.core.gradients.factored import FactoredGradient
from sourcetrace.core.gradients.per_example import DenseGradient, LayerGradient
from sourcetrace.core.layers.layer import Layer
from sourcetrace.core.methods.astra import SolveSettings
from sourcetrace.core.plan.plan import AttributionPlan

_ONE_OF_THREE = 1 / 3
"""A pass, in units of a forward and two backward ones."""


@dataclass(frozen=True)
class StageCost:
    """One kind of work.

    Attributes:
        name: `passes`, `covariances`, `eigendecompositions`, `corrected_eigenvalues`,
            `exact_solves`, `scoring` or `self_influence`.
        seconds: Of wall clock.
        kept_bytes: What is kept of it, on disk or in memory, to the end of the run or of its
            last use.
        at_most: Whether both are bounds.
    """

    name: str
    seconds: float
    kept_bytes: int
    at_most: bool = False


@dataclass(frozen=True)
class RunCost:
    """The cost of a run.

    Attributes:
        forward: Forward passes of an example.
        backward: Backward passes of an example.
        stages: In the order in which they run.
    """

    forward: int
    backward: int
    stages: tuple[StageCost, ...]

    @property
    def seconds(self) -> float:
        """Of all stages."""
        return sum(stage.seconds for stage in self.stages)

    @classmethod
    def of(
        cls,
        engine: GradientEngine,
        plan: AttributionPlan,
        probe: TimedProbe,
        *,
        queries: int,
        recomputed: bool,
        rate: float,
        solve: SolveSettings | None = None,
    ) -> "RunCost":
        """Estimate what a run will take.

        Args:
            engine: Whose layers they are.
            plan: Points, segments and members.
            probe: What an example takes; its numbers of positions stand for all.
            queries: Q.
            recomputed: Whether later stages compute gradients again.
            rate: Multiplications a second of large products.
            solve: How exactly ASTRA solves; None for other methods.
        """
        layers, gradients = engine.coverage.layers, probe.extraction.gradients
        # Fitting visits every segment's points; scores and self-influence share a visit of these
        # and of the final ones.
        again = [*plan.points] if recomputed else []
        if recomputed and plan.uses_curvature:
            again += [point for segment in plan.segments for point in segment.points]
        visits = sum(len(point.examples) for point in plan.points)
        # Then with one backward pass, and without covariances.
        repeats = sum(len(point.examples) for point in again)
        scored = sum(len(one.points) * len(one.examples) for one in plan.segments)
        fitted = scored if plan.uses_curvature else 0
        # Queries are measured by a forward pass for their signals, and by three to be scored.
        runs_of_queries = len(plan.members) * queries
        itemsize = engine.dtype.itemsize
        parameters = sum(layer.size for layer in layers)
        segments = len(plan.segments)
        stages = [
            StageCost(
                "passes",
                probe.passes
                * (visits + (1 + _ONE_OF_THREE) * runs_of_queries + 2 * _ONE_OF_THREE * repeats),
                0 if recomputed else visits * probe.extraction.bytes_per_example,
            ),
            StageCost(
                "covariances",
                probe.covariances * sum(len(point.curvature_examples) for point in plan.points),
                8 * len(plan.points) * sum(_covariance_numbers(layer) for layer in layers),
            ),
        ]
        if plan.uses_curvature:
            stages += [
                StageCost(
                    "eigendecompositions",
                    segments * sum(_eigenbasis_multiplications(layer) for layer in layers) / rate,
                    segments * itemsize * sum(_basis_numbers(layer) for layer in layers),
                ),
                StageCost(
                    "corrected_eigenvalues",
                    fitted
                    * sum(_corrected_multiplications(one, gradients[one.name]) for one in layers)
                    / rate,
                    segments * itemsize * parameters,
                ),
            ]
        if solve is not None:
            seconds = probe.passes * _solving_passes(plan, queries, solve)
            stages.append(StageCost("exact_solves", seconds, 0, at_most=True))
        stages += [
            StageCost(
                "scoring",
                # The mean gradient of a segment meets every query, each of its own their sum.
                (scored + (queries + 1) * sum(len(one.examples) for one in plan.segments))
                * parameters
                / rate,
                segments * (queries + 1) * itemsize * parameters,
                at_most=True,
            ),
            StageCost(
                "self_influence",
                sum(
                    _self_influence_multiplications(one, gradients[one.name], plan)
                    for one in layers
                )
                / rate,
                0,
                at_most=True,
            ),
        ]
        return cls(
            visits + 2 * runs_of_queries + repeats,
            2 * (visits + runs_of_queries) + repeats,
            tuple(stages),
        )


def _eigenbasis_multiplications(layer: Layer) -> int:
    """Return those of both sides' eigenvectors; a diagonal side has none to find."""
    inputs, outputs = _sides(layer)
    return layer.groups * CUBES_OF_EIGENVECTORS * (inputs**3 + outputs**3)


def _corrected_multiplications(layer: Layer, gradient: LayerGradient) -> int:
    """Return those of one example's squared gradient in the eigenbasis, as torch counts them."""
    total = _rotation_multiplications(layer, gradient)
    if isinstance(gradient, FactoredGradient):
        total += gradient.terms * layer.size
    return total


def _rotation_multiplications(layer: Layer, gradient: LayerGradient) -> int:
    """Return those of taking one example's gradient to the eigenbasis."""
    inputs, outputs = _sides(layer)
    if isinstance(gradient, FactoredGradient):
        return layer.groups * gradient.terms * (inputs**2 + outputs**2)
    if isinstance(gradient, DenseGradient):
        return layer.size * (inputs + outputs)
    return gradient.indices.shape[1] * outputs**2


def _self_influence_multiplications(
    layer: Layer, gradient: LayerGradient, plan: AttributionPlan
) -> int:
    """Return at most those of the layer over all examples, queries propagated written out."""
    rotated = _rotation_multiplications(layer, gradient) if plan.uses_curvature else 0
    inputs, outputs = _sides(layer)
    handed_on = layer.size * (inputs + outputs) if plan.uses_curvature else 0
    total = 0
    for member in plan.members:
        for index, segment in enumerate(member.segments):
            met = len(segment.points) * (rotated + layer.size)
            total += len(segment.examples) * met
            # What the example's own gradient becomes for the segment before.
            total += len(member.final.examples) * (handed_on if index else rotated)
    return total


def _solving_passes(plan: AttributionPlan, queries: int, solve: SolveSettings) -> float:
    """Return at most the passes of ASTRA's products, in units of a training example's three."""
    # Forward and one backward pass, and two along the direction of every query.
    passes = 2 + 2 * (queries + 1)
    examples = sum(min(solve.examples, len(one.examples)) for one in plan.segments)
    return _ONE_OF_THREE * passes * examples * solve.max_iterations


def _sides(layer: Layer) -> tuple[int, int]:
    """Return D_in and D_out; 0 for a side whose eigenbasis is the identity."""
    inputs = 0 if layer.indexed or layer.inputs > MAXIMUM_FACTOR else layer.inputs
    return inputs, 0 if layer.outputs > MAXIMUM_FACTOR else layer.outputs


def _basis_numbers(layer: Layer) -> int:
    inputs, outputs = _sides(layer)
    return layer.groups * (inputs**2 + outputs**2)


def _covariance_numbers(layer: Layer) -> int:
    inputs, outputs = _sides(layer)
    return layer.groups * ((inputs**2 or layer.inputs) + (outputs**2 or layer.outputs))
