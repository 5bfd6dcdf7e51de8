"""Per-example gradients of one layer, and the products the method needs of them.

Three forms, chosen by `per_example_gradient`:
- `FactoredGradient`: g aᵀ kept as its two factors, [N, groups, D_out] and [N, groups, D_in].
  Exact for a layer used at one position an example, and the smallest.
- `DenseGradient`: Σ_s g_s a_sᵀ summed out, [N, groups, D_out, D_in]. With S positions a
  product with a query costs D_out·D_in instead of S·D_out·D_in multiplications.
- `IndexedGradient`: where the inputs are one-hot; their indices, and the output gradients.

A basis that is None is the identity.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812, the name everybody reads
from torch import Tensor

from sourcetrace.core.indexed_gradient import IndexedGradient, indexed_gradient
from sourcetrace.core.positions import Positions, TiedPositions

_SMALL_BLOCK = 4
"""A group's D_out · D_in up to which, in units of D_out + D_in, writing it out is cheap."""


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

    def rotated_squares(self, input_basis: Tensor | None, output_basis: Tensor | None) -> Tensor:
        """Return Σ_n (Q_Gᵀ ∇W_n Q_A)², [groups, D_out, D_in]; bases are [groups, D, D]."""
        inputs, outputs = self.inputs.transpose(0, 1), self.output_gradients.transpose(0, 1)
        if input_basis is not None:
            inputs = inputs @ input_basis
        if output_basis is not None:
            outputs = outputs @ output_basis
        return outputs.square().mT @ inputs.square()

    def products(self, queries: Tensor) -> Tensor:
        """Return ⟨query, gradient⟩ for queries [Q, groups, D_out, D_in]: [Q, N]."""
        groups, outputs, inputs = queries.shape[1:]
        if outputs * inputs <= _SMALL_BLOCK * (outputs + inputs):
            # Many small groups, a normalisation's features: one product, not one a group.
            return queries.flatten(1) @ self.dense().flatten(1).T
        total = queries.new_zeros(queries.shape[0], len(self))
        for group in range(groups):
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

    def rotated_squares(self, input_basis: Tensor | None, output_basis: Tensor | None) -> Tensor:
        """Return Σ_n (Q_Gᵀ ∇W_n Q_A)², [groups, D_out, D_in]; bases are [groups, D, D]."""
        rotated = self.values if output_basis is None else output_basis.mT @ self.values
        if input_basis is not None:
            rotated = rotated @ input_basis
        return rotated.square().sum(0)

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


LayerGradient = FactoredGradient | DenseGradient | IndexedGradient
Gradients = Mapping[str, LayerGradient]
"""Per-example gradients of every attributed layer, by layer name."""


def per_example_gradient(
    inputs: Positions, output_gradients: Positions, *, width: int | None = None
) -> LayerGradient:
    """Return the gradients from inputs [N, groups, S, D_in] and gradients [N, groups, S, D_out].

    Args:
        inputs: Layer inputs; indices [N, S] where they are one-hot.
        output_gradients: Their output gradients.
        width: D_in; needed where the inputs are indices, which do not tell it.
    """
    if isinstance(inputs, TiedPositions) or isinstance(output_gradients, TiedPositions):
        return DenseGradient(tied_gradient(inputs, output_gradients))
    if not inputs.is_floating_point():
        if width is None:
            raise TypeError("The width of one-hot inputs cannot be told from their indices.")
        return indexed_gradient(inputs, output_gradients, width)
    if inputs.shape[2] == 1:
        return FactoredGradient(inputs[:, :, 0], output_gradients[:, :, 0])
    return DenseGradient(output_gradients.mT @ inputs)


def tied_gradient(inputs: Positions, output_gradients: Positions) -> Tensor:
    """Return the gradients of a weight that a linear layer and an embedding share.

    It is written out, [N, 1, V, D]: with several positions an example, the linear output
    layer's gradient has that size in any case.
    """
    if not (isinstance(inputs, TiedPositions) and isinstance(output_gradients, TiedPositions)):
        raise TypeError("Both sides of a shared weight are TiedPositions.")
    linear = output_gradients.linear.mT @ inputs.linear
    rows = indexed_gradient(inputs.embedding, output_gradients.embedding, linear.shape[2])
    return linear + rows.dense().mT


def squared_norms(gradients: Gradients) -> Tensor:
    """Return the squared norm of every example's gradient over all layers, [N]."""
    return torch.stack([layer.squared_norms() for layer in gradients.values()]).sum(0)


def concatenate(parts: Sequence[Gradients]) -> dict[str, LayerGradient]:
    """Join the gradients of consecutive examples."""
    return {name: _joined([part[name] for part in parts]) for name in parts[0]}


def _joined(parts: Sequence[LayerGradient]) -> LayerGradient:
    if len({type(part) for part in parts}) > 1:  # a batch of sequences of length 1
        return DenseGradient(torch.cat([part.dense() for part in parts]))
    tensors = [part.tensors() for part in parts]
    if isinstance(parts[0], IndexedGradient):
        longest = max(one["indices"].shape[1] for one in tensors)
        for one in tensors:
            missing = longest - one["indices"].shape[1]
            one["indices"] = F.pad(one["indices"], (0, missing))
            one["output_gradients"] = F.pad(one["output_gradients"], (0, 0, 0, missing))
    return from_tensors({key: torch.cat([one[key] for one in tensors]) for key in tensors[0]})


def from_tensors(tensors: Mapping[str, Tensor]) -> LayerGradient:
    """Rebuild one layer's gradient from what `tensors()` returned."""
    if "values" in tensors:
        return DenseGradient(tensors["values"])
    if "indices" in tensors:
        width = int(tensors["widths"][0, 0])
        return IndexedGradient(tensors["indices"], tensors["output_gradients"], width)
    return FactoredGradient(tensors["inputs"], tensors["output_gradients"])
