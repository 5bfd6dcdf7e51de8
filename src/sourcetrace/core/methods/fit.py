"""Fitting the curvature of a segment, block by block: bases, sums of squares, eigenvalues.

Memory holds the eigenbases and the sums of the corrected eigenvalues of the engine's layers, and
one block of training gradients; it does not grow with the number of training examples. Sums of
squares of some examples may be added to those of others.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from sourcetrace.core.curvature.blocks import CurvatureBlock, EigenBasis
from sourcetrace.core.curvature.covariance import CovarianceSums, LayerCovariances
from sourcetrace.core.curvature.preconditioner import RankOneScaling
from sourcetrace.core.engine.gradient_engine import GradientEngine
from sourcetrace.core.gradients.per_example import LayerGradient
from sourcetrace.core.model.examples import Block, EvaluationPoint
from sourcetrace.core.plan.plan import PlannedSegment


@dataclass(frozen=True)
class LayerBasis:
    """What a layer's gradients are rotated by, and changed by before.

    Attributes:
        basis: Q_A and Q_G.
        preconditioner: P̄^½ of an adaptive optimiser, [groups, D_out, D_in], or None.
        scaling: The u wᵀ in its place where gradients stay outer products, or None.
    """

    basis: EigenBasis
    preconditioner: Tensor | None = None
    scaling: RankOneScaling | None = None

    @classmethod
    def of(
        cls, activation: Tensor, pseudo_gradient: Tensor, root: Tensor | None, dtype: torch.dtype
    ) -> "LayerBasis":
        """Return the basis of A and G, seen through P̄^½ where there is one."""
        if root is None:
            return cls(EigenBasis.of(activation, pseudo_gradient, dtype=dtype))
        scaling = RankOneScaling.of(root, activation=activation, pseudo_gradient=pseudo_gradient)
        sides = scaling.scale_inputs(activation), scaling.scale_outputs(pseudo_gradient)
        return cls(EigenBasis.of(*sides, dtype=dtype), root, scaling)

    def squares(self, gradient: LayerGradient) -> Tensor:
        """Return Σ_n (Q_Gᵀ (P̄^½ ∘ ∇W_n) Q_A)², [groups, D_out, D_in]."""
        if self.scaling is None or self.preconditioner is None:
            return gradient.rotated_squares(self.basis.inputs, self.basis.outputs)
        return self.scaling.rotated_squares(gradient, self.preconditioner, self.basis)

    def block(self, eigenvalues: Tensor) -> CurvatureBlock:
        """Return the layer's matrix with these corrected eigenvalues."""
        return CurvatureBlock(self.basis, eigenvalues, self.preconditioner)

    def to(self, device: torch.device) -> "LayerBasis":
        """Return it on another device."""
        return self.of_tensors({name: one.to(device) for name, one in self.tensors().items()})

    def tensors(self) -> dict[str, Tensor]:
        """Return what makes it up, by name; what is the identity or None is left out."""
        found = {
            "input_basis": self.basis.inputs,
            "output_basis": self.basis.outputs,
            "preconditioner": self.preconditioner,
            "input_scaling": None if self.scaling is None else self.scaling.inputs,
            "output_scaling": None if self.scaling is None else self.scaling.outputs,
        }
        return {name: one for name, one in found.items() if one is not None}

    @classmethod
    def of_tensors(cls, tensors: Mapping[str, Tensor]) -> "LayerBasis":
        """Rebuild it from what `tensors` returned."""
        basis = EigenBasis(tensors.get("input_basis"), tensors.get("output_basis"))
        root = tensors.get("preconditioner")
        if root is None:
            return cls(basis)
        return cls(basis, root, RankOneScaling(tensors["output_scaling"], tensors["input_scaling"]))


def bases(
    engine: GradientEngine,
    planned: PlannedSegment,
    sums: Mapping[str, LayerCovariances],
    roots: Mapping[str, Tensor] | None = None,
) -> dict[str, LayerBasis]:
    """Return the eigenbases of a segment's covariances by layer.

    Args:
        engine: Whose layers they are.
        planned: The segment.
        sums: Point id -> layer -> sums of A and G.
        roots: P̄^½ by layer, [groups, D_out, D_in], of an adaptive optimiser.
    """
    device, found = engine.device, {}
    for layer in engine.coverage.layers:
        root = (roots or {}).get(layer.name)
        found[layer.name] = LayerBasis.of(
            *CovarianceSums.mean(sums[one.id][layer.name].to(device) for one in planned.points),
            None if root is None else root.to(device),
            engine.dtype,
        )
    return found


def squares(
    engine: GradientEngine,
    fitted: Mapping[str, LayerBasis],
    visits: Iterable[tuple[EvaluationPoint, Block]],
) -> dict[str, Tensor]:
    """Return the sums of rotated squares of gradients with sampled labels, float64, by layer.

    Args:
        engine: Gives the gradients.
        fitted: The bases.
        visits: Whose gradients.
    """
    sums = {
        layer.name: torch.zeros(layer.shape, dtype=torch.float64, device=engine.device)
        for layer in engine.coverage.layers
    }
    for point, block in visits:
        for name, gradient in engine.sampled_gradients(point, block).items():
            sums[name] += fitted[name].squares(gradient)
    return sums


def eigenvalues(
    engine: GradientEngine, planned: PlannedSegment, sums: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Return the corrected eigenvalues of a segment by layer: the squares' means.

    Args:
        engine: Which gave the gradients.
        planned: The segment.
        sums: Of the squares of all its gradients.
    """
    terms = engine.draws * sum(len(point.curvature_examples) for point in planned.points)
    return {name: (total / terms).to(engine.dtype) for name, total in sums.items()}
