"""ASTRA: segment responses with the exact Gauss–Newton matrix in place of EK-FAC.

Where EK-FAC answers F_r(H̄_ℓ) v, solve

    (G_ℓ + λ I) x = v,    λ = 1/τ_ℓ + w for Source, the damping for an influence function,

G_ℓ the Gauss–Newton matrix at the mean of the segment's weights, all layers together, over the
stage's training data or a seeded sample of it, the same in every iteration. 1/(σ + 1/τ) stands
for Source's response (1 − e^{−τσ})/σ: both are τ at σ = 0 and 1/σ far from it. Propagation to
the segment before stays EK-FAC's.

The published iteration takes fixed steps preconditioned by EK-FAC; with λ = 1/τ they diverge.
Conjugate gradients with the same preconditioner have no step to choose, and take EK-FAC's
answer at its best length as their first.

Under Adam the same is solved for Ĥ = P̄^½ G P̄^½, with P̄^½ v on the right and P̄^½ in front of x
(`core.curvature.preconditioner`).

Source: arXiv 2507.14740 (ASTRA); conjugate gradients in place of its steps are *derived*.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from sourcetrace.core.curvature.blocks import SegmentCurvature
from sourcetrace.core.curvature.gauss_newton import gauss_newton_products
from sourcetrace.core.engine.gradient_engine import GradientEngine
from sourcetrace.core.machine.conjugate_gradients import Vectors, conjugate_gradients
from sourcetrace.core.model.precision import products_in
from sourcetrace.core.plan.plan import EnsembleMember, PlannedSegment
from sourcetrace.core.responses.propagation import SegmentStep


@dataclass(frozen=True)
class SolveSettings:
    """How exactly the systems are solved.

    Attributes:
        tolerance: Of the relative residual ‖v − (G + λ)x‖ / ‖v‖.
        max_iterations: Bound on the iterations of a segment.
        examples: Training examples of a stage that make up G, drawn by the run's seed.
    """

    tolerance: float = 0.05
    max_iterations: int = 20
    examples: int = 2048


@dataclass(frozen=True)
class SegmentSolve:
    """How one segment's system was solved.

    Attributes:
        segment: Its number.
        residuals: Relative residual of every query.
        iterations: Of every query.
        examples: Training examples in G.
        tolerance: What the residuals were to reach.
    """

    segment: int
    residuals: Sequence[float]
    iterations: Sequence[int]
    examples: int
    tolerance: float


Report = Callable[[int, int, float], None]
"""Told the place of a segment in the run, from 1, the iteration and the largest residual."""


def astra_responses(
    engine: GradientEngine,
    queries: Mapping[str, Tensor],
    member: EnsembleMember,
    curvatures: Sequence[SegmentCurvature | None],
    *,
    settings: SolveSettings | None = None,
    report: Report | None = None,
) -> tuple[list[dict[str, Tensor]], list[SegmentSolve]]:
    """Return the segments' responses, solved for with the exact matrix, and how well.

    Memory holds five blocks of the queries' size while a segment is solved.

    Args:
        engine: Gives the model at the segments' mean weights.
        queries: Query gradients by layer, [Q, groups, D_out, D_in].
        member: Segments and filters.
        curvatures: EK-FAC of every segment: preconditioner and propagation.
        settings: How exactly.
        report: Told of every iteration.
    """
    settings = settings or SolveSettings()
    responses: list[dict[str, Tensor]] = [{} for _ in member.segments]
    solves: list[SegmentSolve] = []
    for index in reversed(range(len(member.segments))):
        planned, fitted = member.segments[index], curvatures[index]
        if fitted is None:
            raise TypeError("An exact solve needs the segment's EK-FAC as its preconditioner.")
        system = _System(engine, planned, fitted, settings)
        moved = {name: one for name, one in queries.items() if name in system.damping}
        solved = conjugate_gradients(
            system.product,
            system.precondition,
            system.enter(moved),
            tolerance=settings.tolerance,
            max_iterations=settings.max_iterations,
            report=None if report is None else partial(report, index + 1),
        )
        count = len(planned.examples)
        answers = system.enter(solved.values)
        responses[index] = {
            name: answers[name] / count if name in answers else torch.zeros_like(one)
            for name, one in queries.items()
        }
        solves.append(
            SegmentSolve(
                planned.segment.number,
                solved.residuals.tolist(),
                solved.iterations.tolist(),
                len(system.examples),
                settings.tolerance,
            )
        )
        if index:
            queries = {
                name: SegmentStep(one, planned.filter_of(name), fitted[name]).propagated()
                for name, one in queries.items()
            }
    return responses, solves[::-1]


class _System:
    """Ĥ + λ of one segment, Ĥ = P̄^½ G P̄^½, and EK-FAC's approximation of its inverse.

    Args:
        engine: Gives the model and the training examples.
        planned: The segment.
        fitted: Its EK-FAC blocks.
        settings: How many examples make up G.

    Attributes:
        examples: Numbers of the training examples in G.
        damping: λ by layer, of the layers that move in the segment.
    """

    def __init__(
        self,
        engine: GradientEngine,
        planned: PlannedSegment,
        fitted: SegmentCurvature,
        settings: SolveSettings,
    ) -> None:
        self._engine = engine
        self._point = planned.mean_point
        self._planned = planned
        self._fitted = fitted
        self.examples = engine.training.drawn(
            planned.examples, settings.examples, seed=engine.seed, purpose="gauss-newton"
        )
        self.damping: dict[str, Tensor | float] = {}
        for name, block in fitted.items():
            damping_of = planned.filter_of(name).solve_damping
            if damping_of is None:
                raise TypeError("The plan's method solves no system.")
            damping = damping_of(block.eigenvalues)
            # A layer that the optimiser holds still in this segment passes nothing on.
            if isinstance(damping, Tensor) or math.isfinite(damping):
                self.damping[name] = damping
        self._layers = [one for one in engine.coverage.layers if one.name in self.damping]

    def enter(self, vectors: Vectors) -> dict[str, Tensor]:
        """Return P̄^½ V; V itself where steps follow the gradient."""
        found = {}
        for name, one in vectors.items():
            root = self._fitted[name].preconditioner
            found[name] = one if root is None else root * one
        return found

    def product(self, vectors: Vectors) -> dict[str, Tensor]:
        """Return (Ĥ + λ) V."""
        model = self._engine.model_at(self._point)
        entered = self.enter(vectors)
        totals = {name: torch.zeros_like(one) for name, one in vectors.items()}
        count = len(next(iter(vectors.values())))
        for rows in torch.split(self.examples, self._engine.batch_size):
            batch = self._engine.training.batch(rows.tolist(), self._engine.device)
            with products_in(self._engine.precision, self._engine.device):
                part = gauss_newton_products(
                    model, self._layers, self._engine.objective, batch, entered, examples=len(rows)
                )
            self._engine.passes.count(len(rows), backward=1 + 2 * count)
            for name, one in part.items():
                totals[name] += one
        left = self.enter({name: one / len(self.examples) for name, one in totals.items()})
        return {name: left[name] + self._shift(name, one) * one for name, one in vectors.items()}

    def precondition(self, vectors: Vectors) -> dict[str, Tensor]:
        """Return EK-FAC's (Ĥ + λ)⁻¹ V."""
        found = {}
        for name, one in vectors.items():
            block, decay = self._fitted[name], self._planned.filter_of(name).coupled_decay
            eigenvalues = block.decayed(decay) + self.damping[name]
            found[name] = block.basis.rotate_back(block.basis.rotate(one) / eigenvalues)
        return found

    def _shift(self, name: str, one: Tensor) -> Tensor | float:
        """Return what stands beside Ĥ on the diagonal: λ, and wP̄ for coupled decay."""
        decay = self._planned.filter_of(name).coupled_decay
        if not decay:
            return self.damping[name]
        root = self._fitted[name].preconditioner
        return self.damping[name] + decay * (1.0 if root is None else root.square().to(one))
