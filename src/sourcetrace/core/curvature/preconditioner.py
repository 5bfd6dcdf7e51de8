"""Adam's preconditioner P̄ = mean of diag(1/(√v̂ + ε)), and the curvature seen through it.

With P̄ held still over a segment, Adam follows θ' = −P̄ ∇ℓ, so that a change of the parameters
decays by exp(−τ P̄H̄) and an example's removal adds ∫₀^τ exp(−s P̄H̄) ds P̄ ḡ. P̄ is diagonal and
positive, so that with Ĥ = P̄^½ H̄ P̄^½, a symmetric matrix,

    S̄ = P̄^½ F_S(Ĥ) P̄^−½        r̄ = P̄^½ F_r(Ĥ) P̄^½ ḡ / N

P̄^½ at the ends multiplies dense queries element by element, and is exact. Ĥ is the second
moment of the gradients P̄^½ ∘ ∇W, whose EK-FAC needs them as outer products: there P̄^½ is
replaced by the u wᵀ that changes those gradients least, in the mean square. What is not a
product keeps the exact P̄^½.

*Derived*; the tests hold it against training unrolled step by step.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from sourcetrace.core.curvature.blocks import EigenBasis
from sourcetrace.core.gradients.factored import FactoredGradient
from sourcetrace.core.gradients.indexed import IndexedGradient
from sourcetrace.core.gradients.per_example import DenseGradient, LayerGradient
from sourcetrace.core.layers.layer import Layer

_WRITTEN_OUT = 64 * 2**20
"""Bound on the bytes of gradients that are written out at once, unless that is one."""

_ITERATIONS = 200
"""Bound on the power iteration; a positive matrix near rank one needs a few."""


@dataclass(frozen=True)
class RankOneScaling:
    """u [groups, D_out] and w [groups, D_in], both ≥ 0, with P̄^½ ≈ u wᵀ."""

    outputs: Tensor
    inputs: Tensor

    @classmethod
    def of(cls, root: Tensor, *, activation: Tensor, pseudo_gradient: Tensor) -> "RankOneScaling":
        """Return the u wᵀ that minimises E ‖(P̄^½ − u wᵀ) ∘ g aᵀ‖², factors taken as independent.

        That is the leading singular pair of P̄^½ weighted by the roots of E[g²] and E[a²]; an input
        that is always 0 has no say.

        Args:
            root: P̄^½, [groups, D_out, D_in].
            activation: A, [groups, D_in, D_in], or its diagonal.
            pseudo_gradient: G, [groups, D_out, D_out], or its diagonal.
        """
        inputs = _diagonal(activation).double().sqrt()
        outputs = _diagonal(pseudo_gradient).double().sqrt()
        weighted = root.to(torch.float64, copy=True)
        weighted *= outputs.unsqueeze(-1)
        weighted *= inputs.unsqueeze(-2)
        right = weighted.sum(-2)
        # Power iteration: all entries are ≥ 0, so the start is never orthogonal to the answer.
        for _ in range(_ITERATIONS):
            before = _unit(right)
            left = _unit((weighted @ before.unsqueeze(-1)).squeeze(-1))
            right = (left.unsqueeze(-2) @ weighted).squeeze(-2)
            if torch.allclose(_unit(right), before, rtol=0.0, atol=1e-12):
                break
        return cls(_divide(left, outputs), _divide(right, inputs))

    def precondition(self, gradient: LayerGradient, root: Tensor) -> LayerGradient:
        """Return P̄^½ ∘ ∇W of every example; of a single outer product, u∘g and w∘a."""
        if isinstance(gradient, FactoredGradient) and gradient.terms == 1:
            outputs = gradient.output_gradients
            return FactoredGradient(
                gradient.inputs * self.inputs.unsqueeze(1).to(gradient.inputs),
                outputs * self.outputs.unsqueeze(1).to(outputs),
            )
        if isinstance(gradient, IndexedGradient):
            inputs = self.inputs[0][gradient.indices].unsqueeze(-1)
            scale = (inputs * self.outputs[0]).to(gradient.output_gradients)
            return replace(gradient, output_gradients=gradient.output_gradients * scale)
        return DenseGradient(gradient.dense() * root)

    def rotated_squares(self, gradient: LayerGradient, root: Tensor, basis: EigenBasis) -> Tensor:
        """Return Σ_n (Q_Gᵀ (P̄^½ ∘ ∇W_n) Q_A)², [groups, D_out, D_in].

        What is no product is written out some examples at a time, or, where the outputs' basis is
        the identity, some outputs.
        """
        is_product = isinstance(gradient, FactoredGradient) and gradient.terms == 1
        if is_product or isinstance(gradient, DenseGradient | IndexedGradient):
            scaled = self.precondition(gradient, root)
            return scaled.rotated_squares(basis.inputs, basis.outputs)
        total = torch.zeros_like(root)
        if basis.outputs is None:
            for _, taken, part in gradient.dense_slabs():
                slab = DenseGradient(part.mul_(root[:, taken]))
                total[:, taken] += slab.rotated_squares(basis.inputs, None)
            return total
        at_once = max(1, _WRITTEN_OUT // (root.numel() * root.element_size()))
        for rows in torch.split(torch.arange(len(gradient)), at_once):
            scaled = self.precondition(gradient.rows(rows), root)
            total += scaled.rotated_squares(basis.inputs, basis.outputs)
        return total

    def scale_inputs(self, activation: Tensor) -> Tensor:
        """Return diag(w) A diag(w); A is [groups, D_in, D_in] or its diagonal [groups, D_in]."""
        return _scale_both_sides(activation, self.inputs)

    def scale_outputs(self, pseudo_gradient: Tensor) -> Tensor:
        """Return diag(u) G diag(u)."""
        return _scale_both_sides(pseudo_gradient, self.outputs)


def mean_preconditioner(
    layer: Layer, denominators: Sequence[Mapping[str, Tensor]], *, dtype: torch.dtype
) -> Tensor | None:
    """Return P̄^½ of a layer, [groups, D_out, D_in]; None if no checkpoint trained it.

    Args:
        layer: The layer.
        denominators: Of every checkpoint of the segment: parameter -> √v̂ + ε, infinite where
            no gradient ever came; parameters without second moments are left out.
        dtype: Of the result.
    """
    known = [one for one in denominators if all(name in one for name in layer.parameters)]
    if not known:
        return None
    # In place: of a large layer every copy in float64 counts.
    inverse = 1 / layer.weight_matrix(known[0]).double()
    for one in known[1:]:
        inverse += 1 / layer.weight_matrix(one).double()
    inverse /= len(known)
    moved = inverse > 0
    # Where no gradient ever came, the row of H̄ and the entry of ḡ are 0, and any number does;
    # a small one, since 1/ε would leave only rounding errors of the others.
    floor = inverse[moved].min() if bool(moved.any()) else inverse.new_ones(())
    return inverse.masked_fill_(~moved, floor).sqrt_().to(dtype)


def _scale_both_sides(covariance: Tensor, scale: Tensor) -> Tensor:
    scale = scale.to(covariance)
    if covariance.dim() == scale.dim():
        return covariance * scale.square()
    return scale.unsqueeze(-1) * covariance * scale.unsqueeze(-2)


def _diagonal(covariance: Tensor) -> Tensor:
    matrix_dimensions = 3
    if covariance.dim() == matrix_dimensions:
        return covariance.diagonal(dim1=-2, dim2=-1)
    return covariance


def _unit(vectors: Tensor) -> Tensor:
    norms: Tensor = torch.linalg.vector_norm(vectors, dim=-1, keepdim=True)
    return vectors / norms.clamp(min=torch.finfo(vectors.dtype).tiny)


def _divide(values: Tensor, weights: Tensor) -> Tensor:
    """Return values / weights, and 0 where the weight is 0."""
    return torch.where(weights > 0, values / weights.where(weights > 0, 1.0), 0.0)
