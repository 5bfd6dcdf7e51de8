"""What a run will cost, before it starts: seconds, and bytes that are kept, by stage.

Passes and covariances take what a batch of the run took (`core.engine.samples`); the rest
is multiplications, by the layers' shapes, at the rate of large products in the same process, which
it cannot do without. Two are upper bounds: scoring, where low-rank sums may take the place of
written-out responses, and self-influence, for the same reason. N examples, Q queries, P attributed
parameters; a *visit* is an example at a point.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from sourcetrace.core.curvature.blocks import CUBES_OF_EIGENVECTORS
from sourcetrace.core.engine.gradient_engine import GradientEngine
from sourcetrace.core.engine.samples import TimedProbe
from sourcetrace.core.gradients.factored import FactoredGradient
from sourcetrace.core.gradients.per_example import DenseGradient, Gradients
from sourcetrace.core.gradients.tied import TiedGradient
from sourcetrace.core.layers.layer import Layer
from sourcetrace.core.methods.astra import SolveSettings
from sourcetrace.core.methods.memory_needs import sides, sizes
from sourcetrace.core.plan.methods import SCALING_EXAMPLES, SCALING_TRIALS, scaling_queries
from sourcetrace.core.plan.plan import AttributionPlan


@dataclass(frozen=True)
class _StageCost:
    """One kind of work.

    Attributes:
        name: `passes`, `covariances`, `passes_to_fit`, `eigendecompositions`,
            `corrected_eigenvalues`, `curvature_scales`, `exact_solves`, `passes_to_score`,
            `scoring` or `self_influence`.
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
    stages: tuple[_StageCost, ...]

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
        groups: tuple[int, int, int] = (1, 1, 1),
        scales: bool = False,
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
            groups: Of layers that are extracted, fitted and scored one after the other: each has
                passes of its own, at most.
            scales: Whether the curvature is scaled by what sampled gradients show.
        """
        extraction_groups, fitting_groups, scoring_groups = groups
        draws = engine.draws
        # In units of what was timed: a forward pass, the given labels', and one a draw.
        one_pass = 1 / (2 + draws)
        total = _total(engine.coverage.layers, probe.extraction.gradients)
        visits = sum(len(point.examples) for point in plan.points)
        # Then with one backward pass, and without covariances; scores and self-influence share it.
        rescored = scoring_groups * visits if recomputed else 0
        scored = sum(len(one.points) * len(one.examples) for one in plan.segments)
        curved = sum(len(p.curvature_examples) for one in plan.segments for p in one.points)
        # Other draws than the first are not kept, and computed when the curvature is fitted.
        refitted = fitting_groups * (draws - (not recomputed)) * curved * plan.uses_curvature
        repeats = rescored + refitted
        # A forward pass and one backward a draw, beyond the first group's.
        regrouped = (extraction_groups - 1) * sum(len(p.curvature_examples) for p in plan.points)
        # Queries are measured by a forward pass at every point, and by three to be scored.
        measured = len(plan.points) * queries
        runs_of_queries = scoring_groups * len(plan.members) * queries
        itemsize, segments = engine.dtype.itemsize, len(plan.segments)
        stages = [
            _StageCost(
                "passes",
                probe.passes * (visits + one_pass * (measured + (1 + draws) * regrouped)),
                0 if recomputed else visits * probe.extraction.bytes_per_example,
            ),
            _StageCost(
                "covariances",
                probe.covariances * sum(len(point.curvature_examples) for point in plan.points),
                8 * len(plan.points) * total["covariances"],
            ),
        ]
        # Of self-influence at most, what is propagated written out.
        own = scored * total["parameters"]
        if plan.uses_curvature:
            stages += [
                _StageCost("passes_to_fit", probe.passes * one_pass * 2 * refitted, 0),
                _StageCost(
                    "eigendecompositions",
                    segments * total["eigenvectors"] / rate,
                    segments * itemsize * total["bases"],
                ),
                _StageCost(
                    "corrected_eigenvalues",
                    draws * curved * total["corrected"] / rate,
                    segments * itemsize * total["parameters"],
                ),
            ]
            own += scored * total["rotated"]
            # What an example's own gradient becomes for the segment before.
            own += sum(
                len(one.final.examples)
                * (total["rotated"] + (len(one.segments) - 1) * total["handed_on"])
                for one in plan.members
            )
        if scales:
            # Gradients of every draw, under each trial factor for a few queries.
            shown = draws * sum(
                min(SCALING_EXAMPLES, len(one.examples)) * len(one.points) for one in plan.segments
            )
            few = scaling_queries(queries, total["parameters"])
            products = total["rotated"] + len(SCALING_TRIALS) * few * total["parameters"]
            seconds = shown * (probe.passes * one_pass * 2 + products / rate)
            stages.append(_StageCost("curvature_scales", seconds, 0, at_most=True))
        if solve is not None:
            # Forward and one backward pass, and two along the direction of every query.
            passes = one_pass * (2 + 2 * (queries + 1))
            sampled = sum(min(solve.examples, len(one.examples)) for one in plan.segments)
            seconds = probe.passes * (passes * sampled * solve.max_iterations)
            stages.append(_StageCost("exact_solves", seconds, 0, at_most=True))
        again = 3 * runs_of_queries + 2 * rescored
        stages += [
            _StageCost("passes_to_score", probe.passes * one_pass * again, 0),
            _StageCost(
                "scoring",
                # The mean gradient of a segment meets every query, each of its own their sum.
                (scored + (queries + 1) * sum(len(one.examples) for one in plan.segments))
                * total["parameters"]
                / rate,
                segments * (queries + 1) * itemsize * total["parameters"],
                at_most=True,
            ),
            _StageCost("self_influence", own / rate, 0, at_most=True),
        ]
        # Passes of every example alone come beside the batch's.
        twice = 2 if engine.coverage.alone else 1
        return cls(
            twice * (visits + runs_of_queries + repeats + regrouped) + measured,
            twice * ((1 + draws) * visits + 2 * runs_of_queries + repeats + draws * regrouped),
            tuple(stages),
        )


def _total(layers: Sequence[Layer], gradients: Gradients) -> Counter[str]:
    """Return what is counted of all layers together, as torch counts it.

    Of the model: numbers of `parameters`, `covariances` and `bases`, and multiplications of
    `eigenvectors`. Of one example's gradient, multiplications: `rotated` to the eigenbasis,
    `corrected` eigenvalues out of it, and `handed_on` to the segment before, written out.
    """
    total = sizes(layers)
    for layer in layers:
        gradient = gradients[layer.name]
        inputs, outputs = sides(layer)
        squares = 0
        if isinstance(gradient, FactoredGradient):
            rotated = layer.groups * gradient.terms * (inputs**2 + outputs**2)
            squares = gradient.terms * layer.size
        elif isinstance(gradient, TiedGradient):
            terms = gradient.linear.terms + gradient.embedding.indices.shape[1]
            rotated = terms * (inputs**2 + outputs**2)
            squares = gradient.linear.terms * layer.size
        elif isinstance(gradient, DenseGradient):
            rotated = layer.size * (inputs + outputs)
        else:
            rotated = gradient.indices.shape[1] * outputs**2
        total.update(
            eigenvectors=layer.groups * CUBES_OF_EIGENVECTORS * (inputs**3 + outputs**3),
            rotated=rotated,
            corrected=rotated + squares,
            handed_on=layer.size * (inputs + outputs),
        )
    return total
