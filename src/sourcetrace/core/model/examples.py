"""Examples of a map-style data set, read in blocks, and points where gradients are taken."""

import hashlib
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Subset

from sourcetrace.core.machine.nested import map_tensors

_DRAWN_AT_ONCE = 2**16
"""Examples whose seeds are numbers of Python's at a time."""


@dataclass(frozen=True)
class Block:
    """Examples `start` up to, without, `stop`."""

    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start

    def among(self, examples: Tensor) -> Tensor:
        """Return those of some numbers, increasing, that lie in the block."""
        bounds = torch.searchsorted(examples, torch.tensor([self.start, self.stop]))
        return examples[int(bounds[0]) : int(bounds[1])]

    @property
    def numbers(self) -> Tensor:
        """Those of its examples, increasing, [n]."""
        return torch.arange(self.start, self.stop)

    def cut(self, size: int) -> "list[Block]":
        """Return consecutive blocks of at most `size` of its examples."""
        starts = range(self.start, self.stop, size)
        return [Block(start, min(start + size, self.stop)) for start in starts]


@dataclass(frozen=True)
class Picked(Block):
    """Some examples `start` up to, without, `stop`: those of these numbers, increasing."""

    picked: tuple[int, ...]

    @classmethod
    def of(cls, numbers: Sequence[int]) -> "Picked":
        """Return the block of some numbers, increasing, at least one."""
        return cls(numbers[0], numbers[-1] + 1, tuple(numbers))

    def __len__(self) -> int:
        return len(self.picked)

    def among(self, examples: Tensor) -> Tensor:
        """Return those of some numbers that are its own."""
        return examples[torch.isin(examples, self.numbers)]

    @property
    def numbers(self) -> Tensor:
        """Those of its examples."""
        return torch.tensor(self.picked)

    def cut(self, size: int) -> "list[Block]":
        """Return blocks of at most `size` of its examples."""
        starts = range(0, len(self), size)
        return [Picked.of(self.picked[start : start + size]) for start in starts]


@dataclass(frozen=True)
class Examples:
    """A data set with the names of its examples.

    Attributes:
        items: Map-style data set, one item an example.
        ids: Unique name of every example, in the same order: a list, or a column, which has no
            object a name.
        collate: Joins items to a batch.
    """

    items: Any
    ids: Any
    collate: Callable[[Sequence[Any]], Any]

    def __len__(self) -> int:
        return len(self.ids)

    def subset(self, index: Sequence[int]) -> "Examples":
        """Return these examples alone, under their own names."""
        return Examples([self.items[i] for i in index], [self.ids[i] for i in index], self.collate)

    def without(self, numbers: Collection[int]) -> "Examples":
        """Return the others, read as they are asked for; their numbers are others too."""
        if not numbers:
            return self
        kept = [i for i in range(len(self)) if i not in numbers]
        return replace(self, items=Subset(self.items, kept), ids=[self.ids[i] for i in kept])

    def blocks(self, size: int) -> Iterator[Block]:
        """Return consecutive blocks of at most `size` examples."""
        yield from Block(0, len(self)).cut(size)

    def batch(self, index: Sequence[int], device: torch.device) -> Any:
        """Return the collated batch of these examples on `device`."""
        batch = self.collate([self.items[i] for i in index])
        return map_tensors(batch, lambda tensor: tensor.to(device))

    def seeds(self, index: Sequence[int], *, seed: int, purpose: str) -> list[int]:
        """Return a seed for each of these examples, from its name and nothing else."""
        return [example_seed(seed, purpose, self.ids[i]) for i in index]

    def drawn(self, examples: Tensor, count: int, *, seed: int, purpose: str) -> Tensor:
        """Return at most `count` of these numbers, increasing, by names and seed alone."""
        if len(examples) <= count:
            return examples
        parts = (part.tolist() for part in torch.split(examples, _DRAWN_AT_ONCE))
        seeds = [torch.tensor(self.seeds(one, seed=seed, purpose=purpose)) for one in parts]
        return examples[torch.cat(seeds).argsort()[:count]].sort().values


@dataclass(frozen=True)
class EvaluationPoint:
    """Weights at which gradients are taken: a checkpoint, or the mean of several.

    Attributes:
        id: Unique name.
        checkpoints: Ids whose weights are averaged.
        examples: Training examples whose gradients are needed here, increasing, [n].
        curvature_examples: Those that make up the curvature, of its stage, increasing, [n'].
        draws: Names what is drawn here, such as sampled labels; the id, unless said otherwise.
    """

    id: str
    checkpoints: tuple[str, ...]
    examples: Tensor
    curvature_examples: Tensor
    draws: str = ""

    def rows(self, block: Block) -> Tensor:
        """Return the numbers of the needed examples that lie in `block`."""
        return block.among(self.examples)

    def key(self, block: Block) -> str:
        """Return the name of a block at this point."""
        return f"{self.id}/{block}"

    def in_curvature(self, rows: Tensor) -> Tensor:
        """Return which of some examples' numbers make up the curvature, [n] bool."""
        if not len(self.curvature_examples):
            return torch.zeros(len(rows), dtype=torch.bool)
        # A search in what is sorted: comparing with all examples would be quadratic in them.
        found = torch.searchsorted(self.curvature_examples, rows)
        last = len(self.curvature_examples) - 1
        return self.curvature_examples[found.clamp_max(last)] == rows


def draws_at(step: int) -> str:
    """Name what is drawn at a step, whatever its checkpoint is called, alone or in an ensemble."""
    return f"step_{step:06d}"


def example_seed(seed: int, purpose: str, example_id: str) -> int:
    """Return the 63-bit seed of an example's random draws."""
    digest = hashlib.sha256(f"{seed}\0{purpose}\0{example_id}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def spread(examples: Tensor, count: int) -> Tensor:
    """Return at most `count` of the examples, at even distances."""
    places = torch.linspace(0, len(examples) - 1, min(count, len(examples)))
    return examples[places.round().long()]
