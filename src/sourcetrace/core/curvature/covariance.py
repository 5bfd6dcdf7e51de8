"""Activation and pseudo-gradient covariances of a layer, as sums that batches are added to.

A = E[Σ_s a_s a_sᵀ] and G = E[Σ_s g_s g_sᵀ], expectations over examples, g with labels drawn
from the model. A position whose g_s is 0, as that of padding, is in neither sum: it adds nothing
to the exact block E[Σ_st g_s g_tᵀ ⊗ a_s a_tᵀ], so that its input must not count.

Products of some thousand rows are exact enough in the working precision, their running sum over
a large data set is not: they are added up in float64, in place, because for a wide layer a copy
of the sum takes longer than the product.

A side is kept as its diagonal alone where one-hot inputs make it diagonal (an embedding's A),
and where it is wider than `MAXIMUM_FACTOR` (a language model's output layer). Its eigenbasis
is then the identity: exact for one-hot inputs; for a wide side the covariance is never
formed, and the curvature is approximated in that side's own coordinates.

A weight that an embedding shares with a linear output layer meets tokens and activations on
both sides. The sums are then those of its whole gradient, Σ ∇Wᵀ∇W and Σ ∇W∇Wᵀ with sampled
labels, of which only the eigenvectors matter to EK-FAC (as in Shampoo, Gupta et al. 2018).
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sourcetrace.core.curvature.covariance_terms import CovarianceTerms, SideTerms, SumLayout
from sourcetrace.core.machine.halving import is_out_of_memory

_ENOUGH = 1024
"""Rows that are multiplied at once, if there are not as many as columns before. More would save
little and hold more: these take a sixth of the sum's memory where it is 3,072 wide."""

_FEWEST_ROWS = 64
"""Rows whose product is not taken in halves when memory runs out: the result alone is too large."""

_PART = 2**18
"""Numbers of a sum, added to at once: their copy in float64 stays in the cache."""


@dataclass(frozen=True)
class CovarianceSums:
    """Sums over examples, a block a group.

    Attributes:
        activation: Σ a aᵀ where g is not 0, [groups, D_in, D_in], or its diagonal, [groups, D_in].
        pseudo_gradient: Σ g gᵀ, [groups, D_out, D_out], or its diagonal, [groups, D_out].
        examples: How many were added.
    """

    activation: Tensor
    pseudo_gradient: Tensor
    examples: int

    def to(self, device: torch.device) -> "CovarianceSums":
        """Return the sums on another device."""
        sides = self.activation.to(device), self.pseudo_gradient.to(device)
        return CovarianceSums(*sides, self.examples)

    def __add__(self, other: "CovarianceSums") -> "CovarianceSums":
        """Return the sums over the examples of both."""
        return CovarianceSums(
            self.activation + other.activation,
            self.pseudo_gradient + other.pseudo_gradient,
            self.examples + other.examples,
        )

    def tensors(self) -> dict[str, Tensor]:
        """Return what makes up the sums, by name."""
        return {
            "activation": self.activation,
            "pseudo_gradient": self.pseudo_gradient,
            "examples": torch.tensor(self.examples),
        }

    @classmethod
    def of_tensors(cls, tensors: Mapping[str, Tensor]) -> "CovarianceSums":
        """Rebuild the sums from what `tensors` returned."""
        sides = tensors["activation"], tensors["pseudo_gradient"]
        return cls(*sides, int(tensors["examples"]))

    def compute(self) -> tuple[Tensor, Tensor]:
        """Return A and G, divided once by the number of examples."""
        return self.activation / self.examples, self.pseudo_gradient / self.examples

    @staticmethod
    def mean(sums: "Iterable[CovarianceSums]") -> tuple[Tensor, Tensor]:
        """Return A and G averaged over the checkpoints of a segment, each checkpoint alike.

        They are taken as they come, for all at once would be large.
        """
        remaining = iter(sums)
        activation, pseudo_gradient = next(remaining).compute()
        count = 1
        for one in remaining:
            count += 1
            activation += one.activation / one.examples
            pseudo_gradient += one.pseudo_gradient / one.examples
        return activation.div_(count), pseudo_gradient.div_(count)


LayerCovariances = Mapping[str, CovarianceSums]
"""The sums of every attributed layer, by layer name."""

LayerTerms = Mapping[str, Sequence[CovarianceTerms]]
"""What batches add, by layer name."""


class RunningCovariances:
    """The sums of every layer while batches are added.

    Args:
        terms: What the first batches add.
    """

    def __init__(self, terms: LayerTerms | None = None) -> None:
        self._activation: defaultdict[str, _RunningSide] = defaultdict(_RunningSide)
        self._pseudo_gradient: defaultdict[str, _RunningSide] = defaultdict(_RunningSide)
        self._examples: Counter[str] = Counter()
        self.add(terms or {})

    def add(self, terms: LayerTerms) -> None:
        """Add batches; their rows are multiplied when there are enough of them."""
        for name, batches in terms.items():
            for batch in batches:
                for one in batch.activation:
                    self._activation[name].add(one)
                self._pseudo_gradient[name].add(batch.pseudo_gradient)
                self._examples[name] += batch.examples

    def sums(self) -> dict[str, CovarianceSums]:
        """Return the sums of all that was added, in float64; adding on changes them."""
        return {
            name: CovarianceSums(
                self._activation[name].summed(), self._pseudo_gradient[name].summed(), examples
            )
            for name, examples in self._examples.items()
        }


class _RunningSide:
    """The sum of one side, by layout: images of several sizes have several, rows left out one."""

    def __init__(self) -> None:
        self._waiting: dict[SumLayout, list[SideTerms]] = {}
        self._totals: dict[SumLayout, Tensor] = {}

    def add(self, terms: SideTerms) -> None:
        waiting = self._waiting.setdefault(terms.layout, [])
        rows = sum(one.rows for one in waiting) + terms.rows
        if rows >= min(terms.width, _ENOUGH):
            waiting.append(terms)
            self._multiply(terms.layout)
        else:
            # A view would keep the batch, and change with it where the task uses it again.
            waiting.append(terms.owned())

    def summed(self) -> Tensor:
        """Return the sum of everything, nothing waiting any more."""
        for layout in self._waiting:
            self._multiply(layout)
        first, *others = self._waiting
        total = first.expanded(self._totals[first])
        if others:
            total = total.clone()
        # One at a time: each is as large as the result.
        for layout in others:
            total += layout.expanded(self._totals[layout])
        return total

    def _multiply(self, layout: SumLayout) -> None:
        """Add what waits to the total."""
        waiting = self._waiting[layout]
        if not waiting:
            return
        found = _summed(waiting)
        waiting.clear()
        if layout in self._totals:
            _add(self._totals[layout], found)
        else:
            self._totals[layout] = found.to(
                torch.float64, copy=True, memory_format=torch.contiguous_format
            )


def _summed(terms: Sequence[SideTerms]) -> Tensor:
    """Return the sums of terms of one layout, in parts where memory does not hold all at once."""
    first, *others = terms
    try:
        return (first.joined(others) if others else first).summed()
    except RuntimeError as error:
        if not is_out_of_memory(error) or sum(one.rows for one in terms) < _FEWEST_ROWS:
            raise
    middle = len(terms) // 2
    parts = (terms[:middle], terms[middle:]) if others else tuple([one] for one in first.halves())
    return sum((_summed(part) for part in parts[1:]), _summed(parts[0]))


def _add(total: Tensor, more: Tensor) -> None:
    """Add to `total` in place; a part at a time, because torch converts a copy first."""
    parts = zip(
        torch.split(total.view(-1), _PART), torch.split(more.reshape(-1), _PART), strict=True
    )
    for part, one in parts:
        part.add_(one)
