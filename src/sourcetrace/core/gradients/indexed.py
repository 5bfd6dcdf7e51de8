"""Per-example gradients of an embedding: Σ_s g_s e_sᵀ with one-hot inputs e_s.

A token that an example repeats adds up before anything is squared. Nothing here has the
size of the vocabulary times the number of examples, but `dense`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F  # noqa: N812, the name everybody reads
from torch import Tensor

from sourcetrace.core.gradients.factored import FactoredGradient, product

_GATHERED = 2**24
"""Bound on the numbers gathered at once from the queries."""


@dataclass(frozen=True)
class IndexedGradient:
    """Gradients of rows of a weight, laid out as [N, 1, D_out, D_in] with D_in tokens.

    Attributes:
        indices: [N, S], 0 ≤ index < D_in.
        output_gradients: [N, S, D_out]; 0 where a position carries no gradient.
        width: D_in.
    """

    indices: Tensor
    output_gradients: Tensor
    width: int

    @classmethod
    def of(cls, indices: Tensor, output_gradients: Tensor, width: int) -> "IndexedGradient":
        """Return the gradients from indices [N, S], -1 for none, and gradients [N, 1, S, D_out]."""
        without = indices < 0
        return cls(
            indices.masked_fill(without, 0),
            output_gradients[:, 0].masked_fill(without.unsqueeze(2), 0),
            width,
        )

    @classmethod
    def joined(cls, parts: "Sequence[IndexedGradient]") -> "IndexedGradient":
        """Join consecutive examples; a position of padding carries no gradient."""
        longest = max(part.indices.shape[1] for part in parts)

        def missing(part: "IndexedGradient") -> int:
            return longest - part.indices.shape[1]

        return cls(
            torch.cat([F.pad(one.indices, (0, missing(one))) for one in parts]),
            torch.cat([F.pad(one.output_gradients, (0, 0, 0, missing(one))) for one in parts]),
            parts[0].width,
        )

    def __len__(self) -> int:
        return self.indices.shape[0]

    def dense(self) -> Tensor:
        """Return the gradients, [N, 1, D_out, D_in]."""
        examples, tokens, summed = self._coalesced(self.output_gradients)
        dense = summed.new_zeros(len(self), self.width, summed.shape[1])
        dense[examples, tokens] = summed
        return dense.mT.unsqueeze(1)

    def summed(self) -> Tensor:
        """Return the sum over the examples, [1, 1, D_out, D_in]."""
        tokens, sums = sums_by_key(self.indices.flatten(), self.output_gradients.flatten(0, 1))
        total = sums.new_zeros(self.width, self.output_gradients.shape[2])
        total[tokens] = sums
        return total.T[None, None]

    def squared_norms(self) -> Tensor:
        """Return the squared Euclidean norm of every example's gradient, [N]."""
        examples, _, summed = self._coalesced(self.output_gradients)
        # Every example has a position, so each has its row.
        return sums_by_key(examples, summed.square().sum(1, keepdim=True))[1].squeeze(1)

    def rotated(self, input_basis: Tensor | None, output_basis: Tensor | None) -> "IndexedGradient":
        """Return Q_Gᵀ ∇W Q_A with Q_A the identity, None.

        Raises:
            ValueError: For another input basis than the identity, which A's eigenbasis is.
        """
        if input_basis is not None:
            raise ValueError("The input basis of one-hot inputs is the identity; pass None.")
        if output_basis is None:
            return self
        return replace(self, output_gradients=self.output_gradients @ output_basis[0])

    def rotated_squares(self, input_basis: Tensor | None, output_basis: Tensor | None) -> Tensor:
        """Return Σ_n (Q_Gᵀ ∇W_n Q_A)², [1, D_out, D_in]; bases as in `rotated`."""
        rotated = self.rotated(input_basis, output_basis)
        _, tokens, summed = self._coalesced(rotated.output_gradients)
        used, sums = sums_by_key(tokens, summed.square())
        squares = summed.new_zeros(self.width, summed.shape[1])
        squares[used] = sums
        return squares.T.unsqueeze(0)

    def products(self, queries: Tensor | FactoredGradient) -> Tensor:
        """Return ⟨query, gradient⟩ for queries [Q, 1, D_out, D_in]: [Q, N]."""
        if isinstance(queries, FactoredGradient):
            queries = queries.dense()
        queries = queries.to(self.output_gradients.dtype)
        total = queries.new_empty(queries.shape[0], len(self))
        for rows in torch.split(torch.arange(len(self)), self._at_once(len(queries))):
            # Written out over the tokens that these examples have, it is one product.
            used, places = torch.unique(self.indices[rows], return_inverse=True)
            own = IndexedGradient(places, self.output_gradients[rows], len(used)).dense()
            columns = queries[:, 0].mT.index_select(1, used)
            total[:, rows] = product(columns.flatten(1), own.mT.flatten(1).T)
        return total

    def _at_once(self, queries: int) -> int:
        """Return how many examples meet their tokens' columns of the queries together."""
        count, positions = 1, self.indices.shape[1]
        while count < len(self):
            tokens = min(2 * count * positions, self.width)
            if tokens * self.output_gradients.shape[2] * max(2 * count, queries) > _GATHERED:
                break
            count *= 2
        return count

    def paired_products(self, others: Tensor) -> Tensor:
        """Return ⟨other_n, gradient_n⟩ for others [N, 1, D_out, D_in]: [N]."""
        shape = (-1, others.shape[2], -1)
        columns = others[:, 0].gather(2, self.indices.unsqueeze(1).expand(shape))
        return (columns * self.output_gradients.mT).sum((1, 2))

    def rows(self, index: Tensor) -> "IndexedGradient":
        """Return the gradients of the examples in `index`."""
        return IndexedGradient(self.indices[index], self.output_gradients[index], self.width)

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors that make up the gradient, by name, the example first in each."""
        widths = torch.full_like(self.indices[:, :1], self.width)
        # The gradients first: callers take the working precision from the first tensor.
        return {
            "output_gradients": self.output_gradients,
            "indices": self.indices,
            "widths": widths,
        }

    def _coalesced(self, gradients: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Sum the positions of an example that have one token: example, token and sum, a row."""
        first = torch.arange(len(self), device=self.indices.device).unsqueeze(1)
        keys, summed = sums_by_key(
            (first * self.width + self.indices).flatten(), gradients.flatten(0, 1)
        )
        return keys // self.width, keys % self.width, summed


def sums_by_key(keys: Tensor, *values: Tensor) -> tuple[Tensor, ...]:
    """Return the distinct keys, increasing, and of all values the sum of the rows of each.

    Sorted first: on a GPU the order of `index_add` is open, and so are its last bits.
    """
    if len(keys) == 0:  # torch reduces no empty tensor
        return keys, *values
    ordered, order = keys.sort(stable=True)
    distinct, lengths = torch.unique_consecutive(ordered, return_counts=True)
    rows = (one[order].contiguous() for one in values)
    return distinct, *(torch.segment_reduce(one, "sum", lengths=lengths, axis=0) for one in rows)
