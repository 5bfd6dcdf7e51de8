"""Per-example gradients of a weight [V, D] that a linear output layer and an embedding share.

The output layer's is Σ_s g_s a_sᵀ, the embedding's Σ_t e_t h_tᵀ with one-hot e_t: both stay sums of
outer products, of which V times D numbers an example are written out a slab at a time, if at all.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812, the name everybody reads
from torch import Tensor

from sourcetrace.core.gradients.factored import FactoredGradient
from sourcetrace.core.gradients.indexed import IndexedGradient, sums_by_key
from sourcetrace.core.machine.products import multiplied


@dataclass(frozen=True)
class TiedPositions:
    """One side of such a weight.

    Attributes:
        linear: The linear layer's inputs a [N, 1, S, D], or its output gradients g [N, 1, S, V].
        embedding: The embedding's indices [N, S'], or its output gradients h [N, 1, S', D].
    """

    linear: Tensor
    embedding: Tensor

    def __len__(self) -> int:
        return self.linear.shape[0]

    def __getitem__(self, rows: Tensor) -> "TiedPositions":
        return TiedPositions(self.linear[rows], self.embedding[rows])

    def gradient(self, output_gradients: "TiedPositions | Tensor") -> "TiedGradient":
        """Return the weight's gradients from its inputs, these."""
        if not isinstance(output_gradients, TiedPositions):
            raise TypeError("Both sides of a shared weight are TiedPositions.")
        width = output_gradients.linear.shape[3]
        return TiedGradient(
            FactoredGradient(self.linear, output_gradients.linear),
            IndexedGradient.of(self.embedding, output_gradients.embedding, width),
        )


@dataclass(frozen=True)
class TiedGradient:
    """∇W of every example, laid out as [N, 1, V, D].

    Attributes:
        linear: The output layer's part.
        embedding: The embedding's, of Wᵀ.
    """

    linear: FactoredGradient
    embedding: IndexedGradient

    def __len__(self) -> int:
        return len(self.linear)

    @property
    def size(self) -> int:
        """Numbers of an example that are kept."""
        return self.linear.size + self.embedding.output_gradients.shape[1:].numel()

    @property
    def dense_size(self) -> int:
        """Numbers of an example that is written out."""
        return self.linear.dense_size

    def dense(self) -> Tensor:
        """Return the gradients, [N, 1, V, D]."""
        return self._with_embedding(self.linear.dense(), slice(None), 0)

    def dense_slabs(self) -> Iterator[tuple[slice, slice, Tensor]]:
        """Yield examples, outputs, and these outputs' rows, as `FactoredGradient.dense_slabs`."""
        for rows, taken, part in self.linear.dense_slabs():
            yield rows, taken, self._with_embedding(part, rows, taken.start)

    def _with_embedding(self, part: Tensor, rows: slice, first: int) -> Tensor:
        """Add the embedding's gradients to rows from `first` on of the output layer's."""
        indices = self.embedding.indices[rows] - first
        inside = (indices >= 0) & (indices < part.shape[2])
        places = inside.nonzero()[:, 0], indices[inside]
        values = self.embedding.output_gradients[rows][inside]
        part[:, 0].index_put_(places, values, accumulate=True)
        return part

    def summed(self) -> Tensor:
        """Return the sum over the examples, [1, 1, V, D]."""
        return self.linear.summed() + self.embedding.summed().mT

    def squared_norms(self) -> Tensor:
        """Return the squared Euclidean norm of every example's gradient, [N]."""
        own = self.linear.squared_norms() + self.embedding.squared_norms()
        gathered, inputs = self._crossed()
        return own + 2 * (gathered * inputs).sum((1, 2))

    def rotated(
        self, input_basis: Tensor | None, output_basis: Tensor | None
    ) -> "TiedGradient | FactoredGradient":
        """Return Q_Gᵀ ∇W Q_A; bases are [1, D, D] and [1, V, V], None for the identity."""
        linear = self.linear.rotated(input_basis, output_basis)
        embedding = self.embedding.rotated(None, input_basis)
        if output_basis is None:
            return TiedGradient(linear, embedding)
        # The rows of the basis are what it makes of one-hot vectors.
        outputs = output_basis[0][embedding.indices].unsqueeze(1)
        return FactoredGradient(
            torch.cat([linear.inputs, embedding.output_gradients.unsqueeze(1)], dim=2),
            torch.cat([linear.output_gradients, outputs], dim=2),
        )

    def rotated_squares(self, input_basis: Tensor | None, output_basis: Tensor | None) -> Tensor:
        """Return Σ_n (Q_Gᵀ ∇W_n Q_A)², [1, V, D]; bases as in `rotated`."""
        rotated = self.rotated(input_basis, output_basis)
        if isinstance(rotated, FactoredGradient):
            return rotated.rotated_squares(None, None)
        total = self.linear.inputs.new_zeros(self.linear.shape)
        for _, taken, part in rotated.dense_slabs():
            total[:, taken] += part.square_().sum(0)
        return total

    def second_moments(self, *, diagonal: bool) -> tuple[Tensor, Tensor]:
        """Return Σ_n ∇W_nᵀ∇W_n, [1, D, D], and Σ_n ∇W_n∇W_nᵀ, [1, V, V], or its diagonal, [1, V].

        With ∇W = Oᵀ X, O the output gradients and one-hot vectors and X what they multiply, the one
        is Xᵀ(O Oᵀ)X, and the other Oᵀ(X Xᵀ)O: products of an example's positions.
        """
        outputs, indices = self.linear.output_gradients[:, 0], self.embedding.indices
        inputs = torch.cat([self.linear.inputs[:, 0], self.embedding.output_gradients], dim=1)
        count = outputs.shape[1]
        gathered, _ = self._crossed()
        same = (indices.unsqueeze(1) == indices.unsqueeze(2)).to(gathered)
        between = torch.cat(
            [
                torch.cat([outputs @ outputs.mT, gathered], dim=2),
                torch.cat([gathered.mT, same], dim=2),
            ],
            dim=1,
        )
        first = (inputs.mT @ (between @ inputs)).sum(0, keepdim=True)
        products = inputs @ inputs.mT
        if not diagonal:
            one_hot = F.one_hot(indices, outputs.shape[2]).to(outputs)
            every = torch.cat([outputs, one_hot], dim=1)
            product = multiplied(every.flatten(0, 1).mT, (products @ every).flatten(0, 1))
            return first, product.unsqueeze(0)
        found = ((products[:, :count, :count] @ outputs) * outputs).sum((0, 1))
        # What a token's rows of the embedding meet: twice the output layer's, and one another.
        met = 2 * products[:, :count, count:] * gathered
        own = met.sum(1) + (products[:, count:, count:] * same).sum(1)
        tokens, sums = sums_by_key(indices.flatten(), own.flatten().unsqueeze(1))
        found[tokens] += sums[:, 0]
        return first, found.unsqueeze(0)

    def _crossed(self) -> tuple[Tensor, Tensor]:
        """Return g_s at the embedding's tokens, and a_s · h_t, both [N, S, S']."""
        outputs, inputs = self.linear.output_gradients[:, 0], self.linear.inputs[:, 0]
        tokens = self.embedding.indices.unsqueeze(1).expand(-1, outputs.shape[1], -1)
        return outputs.gather(2, tokens), inputs @ self.embedding.output_gradients.mT

    def products(self, queries: Tensor | FactoredGradient) -> Tensor:
        """Return ⟨query, gradient⟩ for queries [Q, 1, V, D]: [Q, N]."""
        if isinstance(queries, FactoredGradient):
            queries = queries.dense()
        return self.linear.products(queries) + self.embedding.products(queries.mT)

    def paired_products(self, others: Tensor) -> Tensor:
        """Return ⟨other_n, gradient_n⟩ for others [N, 1, V, D]: [N]."""
        return self.linear.paired_products(others) + self.embedding.paired_products(others.mT)

    def rows(self, index: Tensor) -> "TiedGradient":
        """Return the gradients of the examples in `index`."""
        return TiedGradient(self.linear.rows(index), self.embedding.rows(index))

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors that make up the gradient, by name."""
        named = self.embedding.tensors()
        return {**self.linear.tensors(), "embedding": named.pop("output_gradients"), **named}
