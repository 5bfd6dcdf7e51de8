"""Gradients kept as low-rank sums of outer products, Σ_s g_s a_sᵀ.

One term for a layer used at one position an example, S terms where a layer is used at S. The
responses of queries have the same form: a filter that is a low-rank sum of R outer products takes
S terms to R · S (`core.responses.low_rank_filters`).

Of every product the cheaper order is taken, by its multiplications.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812, the name everybody reads
from torch import Tensor

from sourcetrace.core.machine.products import batch_product, multiplied, times_by_group

_SMALL_BLOCK = 4
"""A group's D_out · D_in up to which, in units of D_out + D_in, writing it out is cheap."""

_CHUNK_BYTES = 16 * 2**20
"""What is written out at once, unless that is fewer rows than `_FEWEST_ROWS`."""

_FEWEST_ROWS = 32
_MOST_BYTES = 512 * 2**20

_SLAB_BYTES = 4 * 2**20
"""What is written out and used up at once: about what stays in a core's cache. Larger pieces take
several times as long, because memory is then written, read and, at every allocation, cleared."""


@dataclass(frozen=True)
class FactoredGradient:
    """Σ_s g_s a_sᵀ of every example.

    Attributes:
        inputs: a, [N, groups, S, D_in].
        output_gradients: g, [N, groups, S, D_out].
    """

    inputs: Tensor
    output_gradients: Tensor

    @classmethod
    def joined(cls, parts: "Sequence[FactoredGradient]") -> "FactoredGradient":
        """Join consecutive examples; a term of padding is 0 and adds nothing."""
        most = max(part.terms for part in parts)

        def padded(values: Tensor) -> Tensor:
            return F.pad(values, (0, 0, 0, most - values.shape[2]))

        return cls(
            torch.cat([padded(part.inputs) for part in parts]),
            torch.cat([padded(part.output_gradients) for part in parts]),
        )

    def __len__(self) -> int:
        return self.inputs.shape[0]

    @property
    def terms(self) -> int:
        """S, the outer products of an example."""
        return self.inputs.shape[2]

    @property
    def size(self) -> int:
        """Numbers of an example that are kept."""
        groups, terms, width = self.inputs.shape[1:]
        return groups * terms * (width + self.output_gradients.shape[3])

    @property
    def dense_size(self) -> int:
        """Numbers of an example that is written out."""
        return self.inputs.shape[1] * self.inputs.shape[3] * self.output_gradients.shape[3]

    def dense(self) -> Tensor:
        """Return the gradients, [N, groups, D_out, D_in]."""
        if self.terms == 1:
            return self.output_gradients.mT * self.inputs
        return self.output_gradients.mT @ self.inputs

    def dense_parts(self) -> Iterator[tuple[slice, Tensor]]:
        """Yield some examples' gradients at a time, written out."""
        each = self.dense_size * self.inputs.element_size()
        # Products of a few rows run at the speed of memory: large layers have more room.
        step = max(1, _CHUNK_BYTES // each, min(_FEWEST_ROWS, _MOST_BYTES // each))
        for start in range(0, len(self), step):
            rows = slice(start, start + step)
            yield rows, FactoredGradient(self.inputs[rows], self.output_gradients[rows]).dense()

    def dense_slabs(self) -> Iterator[tuple[slice, slice, Tensor]]:
        """Yield examples, outputs, and these outputs' rows of these examples' gradients.

        For what is used up at once; on a GPU, where every piece costs a launch, pieces are large.
        """
        groups, outputs, inputs = self.shape
        budget = _SLAB_BYTES if self.inputs.device.type == "cpu" else _MOST_BYTES
        row = groups * inputs * self.inputs.element_size()
        examples = max(1, min(len(self), _FEWEST_ROWS, budget // row))
        height = max(1, min(outputs, budget // (examples * row)))
        examples = max(examples, budget // (height * row))
        for start in range(0, len(self), examples):
            rows = slice(start, start + examples)
            for first in range(0, outputs, height):
                taken = slice(first, first + height)
                gradients = self.output_gradients[rows, :, :, taken]
                yield rows, taken, FactoredGradient(self.inputs[rows], gradients).dense()

    def summed(self) -> Tensor:
        """Return the sum over the examples, [1, groups, D_out, D_in]."""
        inputs = self.inputs.transpose(0, 1).flatten(1, 2)
        outputs = self.output_gradients.transpose(0, 1).flatten(1, 2)
        return batch_product(outputs.mT, inputs).unsqueeze(0)

    def squared_norms(self) -> Tensor:
        """Return the squared Euclidean norm of every example's gradient, [N]."""
        return self._grams(self)

    def scaled(self, factor: Tensor | float) -> "FactoredGradient":
        """Return `factor` times the gradients."""
        return FactoredGradient(factor * self.inputs, self.output_gradients)

    def to(self, dtype: torch.dtype) -> "FactoredGradient":
        """Return the gradients in another precision."""
        return FactoredGradient(self.inputs.to(dtype), self.output_gradients.to(dtype))

    def rotated(
        self, input_basis: Tensor | None, output_basis: Tensor | None
    ) -> "FactoredGradient":
        """Return Q_Gᵀ ∇W Q_A; bases are [groups, D, D], None for the identity."""
        return FactoredGradient(
            _rotated(self.inputs, input_basis), _rotated(self.output_gradients, output_basis)
        )

    def rotated_squares(self, input_basis: Tensor | None, output_basis: Tensor | None) -> Tensor:
        """Return Σ_n (Q_Gᵀ ∇W_n Q_A)², [groups, D_out, D_in]; bases are [groups, D, D]."""
        rotated = self.rotated(input_basis, output_basis)
        if self.terms == 1:
            inputs = rotated.inputs[:, :, 0].transpose(0, 1)
            outputs = rotated.output_gradients[:, :, 0].transpose(0, 1)
            return batch_product(outputs.square().mT, inputs.square())
        total = self.inputs.new_zeros(self.shape)
        for _, taken, part in rotated.dense_slabs():
            total[:, taken] += part.square_().sum(0)
        return total

    @property
    def shape(self) -> tuple[int, int, int]:
        """[groups, D_out, D_in] of one gradient."""
        return (self.inputs.shape[1], self.output_gradients.shape[3], self.inputs.shape[3])

    def products(self, queries: "Tensor | FactoredGradient") -> Tensor:
        """Return ⟨query, gradient⟩ for queries [Q, groups, D_out, D_in]: [Q, N].

        Queries of a lower precision are multiplied in it, and added up in this one's.
        """
        if isinstance(queries, FactoredGradient):
            # By a query and example: terms × terms × (D_out + D_in), or D_out × D_in written out.
            if queries.terms * self.size < self.dense_size:
                return self._factored_products(queries)
            queries = queries.dense()
        groups, outputs, inputs = self.shape
        if len(queries) == 1:
            query = times_by_group(self.inputs, queries[0].mT.to(self.inputs.dtype))
            return (query * self.output_gradients).sum((1, 2, 3)).unsqueeze(0)
        if self.terms > 1:
            found = self.inputs.new_zeros(queries.shape[0], len(self))
            for rows, taken, part in self.dense_slabs():
                found[:, rows] += product(queries[:, :, taken].flatten(1), part.flatten(1).T)
            return found
        if outputs * inputs <= _SMALL_BLOCK * (outputs + inputs):
            # Many small groups, a normalisation's features: one product, not one a group.
            return product(self.dense().flatten(1), queries.flatten(1).T).T
        total = self.inputs.new_zeros(queries.shape[0], len(self))
        for group in range(groups):
            # [Q · D_out, D_in] @ [D_in, N] is the one large product; the rest is a reduction.
            partial = product(queries[:, group].flatten(0, 1), self.inputs[:, group, 0].T)
            partial = partial.reshape(queries.shape[0], -1, len(self))
            total += partial.mul_(self.output_gradients[:, group, 0].T).sum(1)
        return total

    def _factored_products(self, queries: "FactoredGradient") -> Tensor:
        """Return Σ over pairs of terms of (g_q · g_n)(a_q · a_n), [Q, N]."""
        count, groups, terms, _ = queries.inputs.shape
        total = self.inputs.new_zeros(count, len(self))
        width = count * terms * self.terms * self.inputs.element_size()
        step = max(1, _CHUNK_BYTES // width)
        for group in range(groups):
            inputs = queries.inputs[:, group].flatten(0, 1)
            outputs = queries.output_gradients[:, group].flatten(0, 1)
            for start in range(0, len(self), step):
                rows = slice(start, start + step)
                # [S · n, D]: the terms of an example lie apart, so that sums run over whole rows.
                own = self.inputs[rows, group].transpose(0, 1).flatten(0, 1)
                pairs = product(inputs, own.T)
                own = self.output_gradients[rows, group].transpose(0, 1).flatten(0, 1)
                pairs *= product(outputs, own.T)
                total[:, rows] += pairs.reshape(count, terms * self.terms, -1).sum(1)
        return total

    def paired_products(self, others: "Tensor | FactoredGradient") -> Tensor:
        """Return ⟨other_n, gradient_n⟩ for others [N, groups, D_out, D_in]: [N]."""
        if isinstance(others, FactoredGradient):
            return self._grams(others)
        partial = self.inputs @ others.mT
        return (partial * self.output_gradients).sum((1, 2, 3))

    def _grams(self, others: "FactoredGradient") -> Tensor:
        if self.terms == others.terms == 1:  # batched products of single rows are slow
            inputs = (self.inputs * others.inputs).sum(-1)
            outputs = (self.output_gradients * others.output_gradients).sum(-1)
            return (inputs * outputs).sum((1, 2))
        inputs = self.inputs @ others.inputs.mT
        return (inputs * (self.output_gradients @ others.output_gradients.mT)).sum((1, 2, 3))

    def rows(self, index: Tensor) -> "FactoredGradient":
        """Return the gradients of the examples in `index`."""
        return FactoredGradient(self.inputs[index], self.output_gradients[index])

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors that make up the gradient, by name."""
        return {"inputs": self.inputs, "output_gradients": self.output_gradients}


def product(one: Tensor, other: Tensor) -> Tensor:
    """Return a matrix product, of two precisions in the lower one and as the higher one."""
    if one.dtype == other.dtype:
        return multiplied(one, other)
    higher = torch.promote_types(one.dtype, other.dtype)
    lower = other.dtype if one.dtype == higher else one.dtype
    return (one.to(lower) @ other.to(lower)).to(higher)


def each_pair(terms: Tensor, factors: Tensor) -> Tensor:
    """Return [N, groups, S, D] by [N or 1, groups, R, D], entry by entry: [N, groups, S · R, D]."""
    if 1 in (terms.shape[2], factors.shape[2]):
        return terms * factors
    return (terms.unsqueeze(3) * factors.unsqueeze(2)).flatten(2, 3)


def _rotated(values: Tensor, basis: Tensor | None) -> Tensor:
    return values if basis is None else times_by_group(values, basis)
