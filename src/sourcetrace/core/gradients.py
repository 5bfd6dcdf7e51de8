"""Per-example gradients of one layer, and the products the method needs of them.

Two forms, chosen by `per_example_gradient`:
- `FactoredGradient`: g aᵀ kept as its two factors, [N, groups, D_out] and [N, groups, D_in].
  Exact for a layer used at one position an example, and the smallest.
- `DenseGradient`: Σ_s g_s a_sᵀ summed out, [N, groups, D_out, D_in]. With S positions a
  product with a query costs D_out·D_in instead of S·D_out·D_in multiplications.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class FactoredGradient:
    """g aᵀ of every example: inputs [N, groups, D_in], output_gradients [N, groups, D_out]."""

    inputs: Tensor
    output_gradients: Tensor

    def __len__(self) -> int:
        return self.inputs.shape[0]

    def dense(self) -> Tensor:
        """Return the gradients, [N, groups, D_out, D_in]."""
        return self.output_gradients.unsqueeze(-1) * self.inputs.unsqueeze(-2)

    def squared_norms(self) -> Tensor:
        """Return the squared Euclidean norm of every example's gradient, [N]."""
        inputs = self.inputs.square().sum(-1)
        return (inputs * self.output_gradients.square().sum(-1)).sum(-1)

    def rotated_squares(self, input_basis: Tensor, output_basis: Tensor) -> Tensor:
        """Return Σ_n (Q_Gᵀ ∇W_n Q_A)², [groups, D_out, D_in]; bases are [groups, D, D]."""
        inputs = (self.inputs.transpose(0, 1) @ input_basis).square()
        outputs = (self.output_gradients.transpose(0, 1) @ output_basis).square()
        return outputs.mT @ inputs

    def products(self, queries: Tensor) -> Tensor:
        """Return ⟨query, gradient⟩ for queries [Q, groups, D_out, D_in]: [Q, N]."""
        total = queries.new_zeros(queries.shape[0], len(self))
        for group in range(self.inputs.shape[1]):
            # [Q · D_out, D_in] @ [D_in, N] is the one large product; the rest is a reduction.
            partial = queries[:, group].flatten(0, 1) @ self.inputs[:, group].T
            partial = partial.reshape(queries.shape[0], -1, len(self))
            total += torch.einsum("qon,no->qn", partial, self.output_gradients[:, group])
        return total

    def paired_products(self, others: Tensor) -> Tensor:
        """Return ⟨other_n, gradient_n⟩ for others [N, groups, D_out, D_in]: [N]."""
        partial = torch.einsum("ngoi,ngi->ngo", others, self.inputs)
        return (partial * self.output_gradients).sum((1, 2))

    def rows(self, index: Tensor) -> "FactoredGradient":
        """Return the gradients of the examples in `index`."""
        return FactoredGradient(self.inputs[index], self.output_gradients[index])

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors that make up the gradient, by name."""
        return {"inputs": self.inputs, "output_gradients": self.output_gradients}


@dataclass(frozen=True)
class DenseGradient:
    """∇W of every example, values [N, groups, D_out, D_in]."""

    values: Tensor

    def __len__(self) -> int:
        return self.values.shape[0]

    def dense(self) -> Tensor:
        """Return the gradients, [N, groups, D_out, D_in]."""
        return self.values

    def squared_norms(self) -> Tensor:
        """Return the squared Euclidean norm of every example's gradient, [N]."""
        return self.values.square().flatten(1).sum(1)

    def rotated_squares(self, input_basis: Tensor, output_basis: Tensor) -> Tensor:
        """Return Σ_n (Q_Gᵀ ∇W_n Q_A)², [groups, D_out, D_in]; bases are [groups, D, D]."""
        return (output_basis.mT @ self.values @ input_basis).square().sum(0)

    def products(self, queries: Tensor) -> Tensor:
        """Return ⟨query, gradient⟩ for queries [Q, groups, D_out, D_in]: [Q, N]."""
        return queries.flatten(1) @ self.values.flatten(1).T

    def paired_products(self, others: Tensor) -> Tensor:
        """Return ⟨other_n, gradient_n⟩ for others [N, groups, D_out, D_in]: [N]."""
        return (others * self.values).flatten(1).sum(1)

    def rows(self, index: Tensor) -> "DenseGradient":
        """Return the gradients of the examples in `index`."""
        return DenseGradient(self.values[index])

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors that make up the gradient, by name."""
        return {"values": self.values}


LayerGradient = FactoredGradient | DenseGradient
Gradients = Mapping[str, LayerGradient]
"""Per-example gradients of every attributed layer, by layer name."""


def per_example_gradient(inputs: Tensor, output_gradients: Tensor) -> LayerGradient:
    """Return the gradients from inputs [N, groups, S, D_in] and gradients [N, groups, S, D_out]."""
    if inputs.shape[2] == 1:
        return FactoredGradient(inputs[:, :, 0], output_gradients[:, :, 0])
    return DenseGradient(output_gradients.mT @ inputs)


def squared_norms(gradients: Gradients) -> Tensor:
    """Return the squared norm of every example's gradient over all layers, [N]."""
    return torch.stack([layer.squared_norms() for layer in gradients.values()]).sum(0)


def concatenate(parts: Sequence[Gradients]) -> dict[str, LayerGradient]:
    """Join the gradients of consecutive examples."""
    return {
        name: from_tensors(
            {
                key: torch.cat([part[name].tensors()[key] for part in parts])
                for key in layer.tensors()
            }
        )
        for name, layer in parts[0].items()
    }


def from_tensors(tensors: Mapping[str, Tensor]) -> LayerGradient:
    """Rebuild one layer's gradient from what `tensors()` returned."""
    if "values" in tensors:
        return DenseGradient(tensors["values"])
    return FactoredGradient(tensors["inputs"], tensors["output_gradients"])
