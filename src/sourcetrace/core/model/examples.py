"""Examples of a map-style data set, read in consecutive blocks."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sourcetrace.core.machine.nested import map_tensors


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


@dataclass(frozen=True)
class Examples:
    """A data set with the names of its examples.

    Attributes:
        items: Map-style data set, one item an example.
        ids: Unique name of every example, in the same order.
        collate: Joins items to a batch.
    """

    items: Any
    ids: Sequence[str]
    collate: Callable[[Sequence[Any]], Any]

    def __len__(self) -> int:
        return len(self.ids)

    def subset(self, index: Sequence[int]) -> "Examples":
        """Return these examples alone, under their own names."""
        return Examples([self.items[i] for i in index], [self.ids[i] for i in index], self.collate)

    def blocks(self, size: int) -> Iterator[Block]:
        """Return consecutive blocks of at most `size` examples."""
        for start in range(0, len(self), size):
            yield Block(start, min(start + size, len(self)))

    def batch(self, index: Sequence[int], device: torch.device) -> Any:
        """Return the collated batch of these examples on `device`."""
        batch = self.collate([self.items[i] for i in index])
        return map_tensors(batch, lambda tensor: tensor.to(device))

    def seeds(self, index: Sequence[int], *, seed: int, purpose: str) -> list[int]:
        """Return a seed for each of these examples, from its name and nothing else."""
        return [example_seed(seed, purpose, self.ids[i]) for i in index]


def example_seed(seed: int, purpose: str, example_id: str) -> int:
    """Return the 63-bit seed of an example's random draws."""
    digest = hashlib.sha256(f"{seed}\0{purpose}\0{example_id}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
