"""Per-example gradients of one layer, and the products the method needs of them.

Four forms, chosen by `per_example_gradient`:
- `FactoredGradient`: Σ_s g_s a_sᵀ kept as its factors, [N, groups, S, D_out] and
  [N, groups, S, D_in], where they are smaller than what they make up: S (D_out + D_in) numbers
  and not D_out · D_in. The same count says where rotations cost less.
- `DenseGradient`: Σ_s g_s a_sᵀ summed out, [N, groups, D_out, D_in].
- `IndexedGradient`: where the inputs are one-hot; their indices, and the output gradients.
- `TiedGradient`: the sum of two of these, of a weight that an embedding shares.

A basis that is None is the identity.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import TypeVar

import torch
from torch import Tensor

from sourcetrace.core.gradients.factored import FactoredGradient, product
from sourcetrace.core.gradients.indexed import IndexedGradient
from sourcetrace.core.gradients.tied import TiedGradient, TiedPositions
from sourcetrace.core.machine.products import both_sides

_Kind = TypeVar("_Kind", FactoredGradient, IndexedGradient, TiedGradient)


@dataclass(frozen=True)
class DenseGradient:
    """∇W of every example, values [N, groups, D_out, D_in]."""

    values: Tensor

    def __len__(self) -> int:
        return self.values.shape[0]

    def dense(self) -> Tensor:
        """Return the gradients, [N, groups, D_out, D_in]."""
        return self.values

    def summed(self) -> Tensor:
        """Return the sum over the examples, [1, groups, D_out, D_in]."""
        return self.values.sum(0, keepdim=True)

    def squared_norms(self) -> Tensor:
        """Return the squared Euclidean norm of every example's gradient, [N]."""
        return self.values.square().flatten(1).sum(1)

    def rotated(self, input_basis: Tensor | None, output_basis: Tensor | None) -> "DenseGradient":
        """Return Q_Gᵀ ∇W Q_A; bases are [groups, D, D], None for the identity."""
        return DenseGradient(both_sides(self.values, output_basis, input_basis))

    def rotated_squares(self, input_basis: Tensor | None, output_basis: Tensor | None) -> Tensor:
        """Return Σ_n (Q_Gᵀ ∇W_n Q_A)², [groups, D_out, D_in]; bases are [groups, D, D]."""
        # Not in place: without bases the rotated gradients are these.
        return self.rotated(input_basis, output_basis).values.square().sum(0)

    def products(self, queries: Tensor | FactoredGradient) -> Tensor:
        """Return ⟨query, gradient⟩ for queries [Q, groups, D_out, D_in]: [Q, N]."""
        if isinstance(queries, FactoredGradient):
            queries = queries.dense()
        return product(self.values.flatten(1), queries.flatten(1).T).T

    def paired_products(self, others: Tensor) -> Tensor:
        """Return ⟨other_n, gradient_n⟩ for others [N, groups, D_out, D_in]: [N]."""
        return (others * self.values).flatten(1).sum(1)

    def rows(self, index: Tensor) -> "DenseGradient":
        """Return the gradients of the examples in `index`."""
        return DenseGradient(self.values[index])

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors that make up the gradient, by name."""
        return {"values": self.values}


LayerGradient = FactoredGradient | DenseGradient | IndexedGradient | TiedGradient
Gradients = Mapping[str, LayerGradient]
"""Per-example gradients of every attributed layer, by layer name."""


Positions = Tensor | TiedPositions
"""A layer's inputs or output gradients; indices [N, S] where all its inputs are one-hot."""


def per_example_gradient(
    inputs: Positions, output_gradients: Positions, *, width: int
) -> LayerGradient:
    """Return the gradients from inputs [N, groups, S, D_in] and gradients [N, groups, S, D_out].

    Args:
        inputs: Layer inputs; indices [N, S] where they are one-hot.
        output_gradients: Their output gradients.
        width: D_in, which indices do not tell.
    """
    if isinstance(inputs, TiedPositions):
        tied = inputs.gradient(output_gradients)
        return tied if tied.size < tied.dense_size else DenseGradient(tied.dense())
    if isinstance(output_gradients, TiedPositions):
        raise TypeError("Both sides of a shared weight are TiedPositions.")
    if not inputs.is_floating_point():
        return IndexedGradient.of(inputs, output_gradients, width)
    factored = FactoredGradient(inputs, output_gradients)
    if inputs.shape[2] == 1 or factored.size < factored.dense_size:
        return factored
    return DenseGradient(factored.dense())


def squared_norms(gradients: Gradients) -> Tensor:
    """Return the squared norm of every example's gradient over all layers, [N]."""
    return torch.stack([layer.squared_norms() for layer in gradients.values()]).sum(0)


def bytes_of(gradients: Gradients) -> int:
    """Return the bytes of all layers' gradients, as they are kept."""
    return sum(one.nbytes for layer in gradients.values() for one in layer.tensors().values())


def of_unit_norm(gradients: Gradients) -> dict[str, LayerGradient]:
    """Return every example's gradient divided by its norm over all layers; 0 stays 0."""
    norms = squared_norms(gradients).clamp(min=0).sqrt()
    inverse = torch.where(norms > 0, 1 / norms, 0.0)

    def scaled(layer: LayerGradient) -> LayerGradient:
        tensors = layer.tensors()
        # One factor of every product: a shared weight's are of two kinds.
        for key in {"values", "output_gradients", "embedding"} & set(tensors):
            factor = inverse.reshape(-1, *(1 for _ in tensors[key].shape[1:]))
            tensors[key] = factor * tensors[key]
        return from_tensors(tensors)

    return {name: scaled(layer) for name, layer in gradients.items()}


def concatenate(parts: Sequence[Gradients]) -> dict[str, LayerGradient]:
    """Join the gradients of consecutive examples."""
    return {
        name: _by_kind(
            [part[name] for part in parts],
            FactoredGradient.joined,
            IndexedGradient.joined,
            lambda dense: torch.cat(list(dense)),
        )
        for name in parts[0]
    }


def mean(gradients: Sequence[LayerGradient]) -> LayerGradient:
    """Return the mean of gradients of the same examples, at several checkpoints, as one.

    Outer products are joined: as many terms as all have together, or as one has, where the inputs
    are the same at all checkpoints, as a network's first layer's are. Products then take the
    cheaper order for all of them at once, and what is written out is written out summed.
    """
    if len(gradients) == 1:
        return gradients[0]
    return _by_kind(
        gradients,
        _mean_factored,
        _mean_indexed,
        lambda dense: reduce(torch.add, dense) / len(gradients),
    )


def _by_kind(
    parts: Sequence[LayerGradient],
    factored: Callable[[Sequence[FactoredGradient]], FactoredGradient],
    indexed: Callable[[Sequence[IndexedGradient]], IndexedGradient],
    dense: Callable[[Iterable[Tensor]], Tensor],
) -> LayerGradient:
    """Make one gradient of several in the way of their kind; written out where kinds differ.

    They do where a batch has sequences of length 1 alone.
    """
    if found := _all_of(FactoredGradient, parts):
        return factored(found)
    if rows := _all_of(IndexedGradient, parts):
        return indexed(rows)
    if tied := _all_of(TiedGradient, parts):
        return TiedGradient(
            factored([one.linear for one in tied]), indexed([one.embedding for one in tied])
        )
    return DenseGradient(dense(one.dense() for one in parts))


def _all_of(kind: type[_Kind], parts: Sequence[LayerGradient]) -> list[_Kind]:
    """Return the parts where all are of a kind, nothing otherwise."""
    found = [part for part in parts if isinstance(part, kind)]
    return found if len(found) == len(parts) else []


def _mean_factored(parts: Sequence[FactoredGradient]) -> FactoredGradient:
    inputs, outputs = [one.inputs for one in parts], [one.output_gradients for one in parts]
    return FactoredGradient(*_joined_terms(inputs, outputs, 2))


def _mean_indexed(parts: Sequence[IndexedGradient]) -> IndexedGradient:
    indices, outputs = [one.indices for one in parts], [one.output_gradients for one in parts]
    return IndexedGradient(*_joined_terms(indices, outputs, 1), parts[0].width)


def _joined_terms(
    inputs: Sequence[Tensor], outputs: Sequence[Tensor], axis: int
) -> tuple[Tensor, Tensor]:
    """Return the factors of the mean of sums of outer products, whose terms lie along `axis`."""
    if all(torch.equal(inputs[0], one) for one in inputs[1:]):
        return inputs[0], reduce(torch.add, outputs) / len(outputs)
    return torch.cat(list(inputs), axis), torch.cat(list(outputs), axis) / len(outputs)


def from_tensors(tensors: Mapping[str, Tensor]) -> LayerGradient:
    """Rebuild one layer's gradient from what `tensors()` returned."""
    if "values" in tensors:
        return DenseGradient(tensors["values"])
    if "indices" not in tensors:
        return FactoredGradient(tensors["inputs"], tensors["output_gradients"])
    is_tied = "embedding" in tensors
    embedded = IndexedGradient(
        tensors["indices"],
        tensors["embedding" if is_tied else "output_gradients"],
        int(tensors["widths"][0, 0]),
    )
    if not is_tied:
        return embedded
    linear = FactoredGradient(tensors["inputs"], tensors["output_gradients"])
    return TiedGradient(linear, embedded)
