"""TRAK in the frame of the other methods: curvature from randomly projected gradients.

    score(q, m) = φ_qᵀ (ΦᵀΦ + λI)⁻¹ P ∇ℓ(m),    φ = P ∇f,    Φ = P ∇f of every training example

at the final weights, f the measurement. For classification ∇ℓ = −(1 − p) ∇f of the margin, so
that this is TRAK's score with its weights 1 − p, and the sign of a removal. P draws k products
u_jᵀ ∇W w_j / √k with random signs u_j, w_j a layer and group: E[PᵀP] = I, a factored gradient is
projected by its factors, and P has k (D_out + D_in) numbers where a dense one has k D_out D_in.
For a measurement that is a loss, as in regression, ΦᵀΦ is the empirical Fisher matrix.

Source: Park et al. 2023, arXiv 2303.14186; the projection by factors is *derived* (its second
moment), its λ is ours: without one ΦᵀΦ has no inverse where examples are fewer than k.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sourcetrace.core.engine.gradient_engine import GradientEngine
from sourcetrace.core.gradients.factored import FactoredGradient
from sourcetrace.core.gradients.per_example import DenseGradient, Gradients, LayerGradient
from sourcetrace.core.layers.layer import Layer
from sourcetrace.core.machine.products import times_by_group
from sourcetrace.core.model.examples import example_seed
from sourcetrace.core.plan.plan import EnsembleMember

DAMPING = 0.1
"""λ, as a share of the mean eigenvalue of ΦᵀΦ."""


@dataclass(frozen=True)
class _Projection:
    """P by layer: signs for the outputs, [groups, k, D_out], and the inputs, [groups, k, D_in]."""

    outputs: Mapping[str, Tensor]
    inputs: Mapping[str, Tensor]
    dimension: int

    @classmethod
    def draw(
        cls, layers: Sequence[Layer], dimension: int, *, seed: int, like: Tensor
    ) -> "_Projection":
        """Return P for these layers, the same on every device.

        Args:
            layers: The attributed layers.
            dimension: k.
            seed: Of the signs; a layer's depend on its name too.
            like: Has the dtype and device.
        """

        def signs(layer: Layer, side: str, width: int) -> Tensor:
            generator = torch.Generator().manual_seed(example_seed(seed, side, layer.name))
            drawn = torch.randint(2, (layer.groups, dimension, width), generator=generator)
            signed: Tensor = 2 * drawn - 1
            return signed.to(like)

        return cls(
            {one.name: signs(one, "outputs", one.outputs) for one in layers},
            {one.name: signs(one, "inputs", one.inputs) for one in layers},
            dimension,
        )

    def project(self, gradients: Gradients) -> Tensor:
        """Return P ∇ of every example, [N, k]."""
        parts = [self._layer(name, gradient) for name, gradient in gradients.items()]
        return torch.stack(parts).sum(0) / math.sqrt(self.dimension)

    def project_back(self, values: Tensor) -> dict[str, Tensor]:
        """Return Pᵀ of [Q, k] by layer, [Q, groups, D_out, D_in]."""
        scaled = values / math.sqrt(self.dimension)
        return {
            name: torch.stack(
                [
                    (scaled.unsqueeze(1) * out.T) @ inputs
                    for out, inputs in zip(outputs, self.inputs[name], strict=True)
                ],
                dim=1,
            )
            for name, outputs in self.outputs.items()
        }

    def _layer(self, name: str, gradient: LayerGradient) -> Tensor:
        outputs, inputs = self.outputs[name], self.inputs[name]
        if isinstance(gradient, FactoredGradient):
            left = times_by_group(gradient.output_gradients, outputs.mT)
            return (left * times_by_group(gradient.inputs, inputs.mT)).sum((1, 2))
        # Example by example: [k, D_in] each, not [N, k, D_in].
        rows = (gradient.rows(row).dense()[0] for row in torch.arange(len(gradient)).unsqueeze(1))
        return torch.stack([((outputs @ one) * inputs).sum((0, 2)) for one in rows])


@dataclass(frozen=True)
class TrakFit:
    """P, and the inverse of ΦᵀΦ + λ over N training examples, [k, k]."""

    projection: _Projection
    inverse: Tensor

    @classmethod
    def of(
        cls,
        engine: GradientEngine,
        member: EnsembleMember,
        *,
        dimension: int,
        inverse: Tensor | None = None,
    ) -> "TrakFit":
        """Visit every training example once more, for the gradient of its measurement.

        Args:
            engine: The training examples and the model.
            member: Whose final weights count.
            dimension: k, the projection's dimension.
            inverse: As an earlier visit gave it; none is made then.
        """
        layers = engine.coverage.layers
        projection = _Projection.draw(layers, dimension, seed=engine.seed, like=engine.like)
        if inverse is not None:
            return cls(projection, inverse)
        moments = torch.zeros(dimension, dimension, dtype=torch.float64, device=engine.device)
        for _, block in engine.visits([member.final]):
            measured, _ = engine.query_gradients(engine.training, member.final, block)
            features = projection.project(measured)
            moments += (features.T @ features).double()
        mean = moments.diagonal().mean().clamp(min=torch.finfo(torch.float64).tiny)
        damped = moments + DAMPING * mean * torch.eye(dimension, dtype=torch.float64).to(moments)
        return cls(projection, torch.linalg.inv(damped).to(engine.dtype))

    def responses(self, queries: Mapping[str, Tensor]) -> list[dict[str, Tensor]]:
        """Return what the training gradients meet, for queries [Q, groups, D_out, D_in]."""
        projected = self.projection.project(
            {name: DenseGradient(one) for name, one in queries.items()}
        )
        return [self.projection.project_back(projected @ self.inverse)]

    def self_influence(self, gradients: Gradients) -> Tensor:
        """Return the scores of examples on their own training loss, [N]."""
        projected = self.projection.project(gradients)
        scores: Tensor = ((projected @ self.inverse) * projected).sum(1)
        return scores
