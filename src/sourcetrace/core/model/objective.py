"""What the numerics ask of a training task: a forward pass and three losses.

The losses are separate from the forward pass so that one forward pass serves several
backward passes. Every loss returns one value an example, [B].
"""

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn


@runtime_checkable
class Objective(Protocol):
    """The part of a task that the numerics call."""

    def forward(self, model: nn.Module, batch: Any) -> Any:
        """Return the model's outputs for a collated batch."""

    def train_loss(self, outputs: Any, batch: Any) -> Tensor:
        """Return the loss whose batch mean the optimiser minimised, [B]."""

    def sampled_loss(self, outputs: Any, generator: torch.Generator) -> Tensor:
        """Return the training loss against labels drawn from the model, [B].

        Only its gradient counts: its second moment over draws is the Fisher matrix. A loss
        whose random gradient has the same second moment with less spread serves as well.
        """

    def measurement(self, outputs: Any, batch: Any) -> Tensor:
        """Return the scalar of each example that is explained, [B]."""


class ExampleGenerator(torch.Generator):
    """A random generator whose draws belong to examples, not to positions in a batch.

    It works wherever a `torch.Generator` does. `uniform` also gives every example its own
    stream, so that a label sampled for an example depends on the seed and the example
    alone: scores then stay the same under another batch size or order of the data.
    """

    example_seeds: tuple[int, ...] = ()

    @classmethod
    def for_examples(cls, seeds: Sequence[int]) -> "ExampleGenerator":
        """Return a generator for a batch whose examples have these seeds."""
        generator = cls()
        generator.manual_seed(seeds[0] if seeds else 0)
        generator.example_seeds = tuple(seeds)
        return generator


def uniform(generator: torch.Generator, shape: Sequence[int], *, like: Tensor) -> Tensor:
    """Return uniform draws in [0, 1) of `shape` = [B, …], on the device and dtype of `like`.

    Drawn in float64 on the CPU, so that every device sees the same numbers.
    """
    seeds = getattr(generator, "example_seeds", ())
    if len(seeds) == shape[0] and seeds:
        stream = torch.Generator()
        rows = [
            torch.rand(tuple(shape[1:]), generator=stream.manual_seed(seed), dtype=torch.float64)
            for seed in seeds
        ]
        draws = torch.stack(rows)
    else:
        draws = torch.rand(
            tuple(shape), generator=generator, dtype=torch.float64, device=generator.device
        )
    # A draw just below 1 rounds to 1 in float32, where an inverse distribution is infinite.
    return draws.to(like).clamp(max=1 - torch.finfo(like.dtype).eps)


def signs(generator: torch.Generator, shape: Sequence[int], *, like: Tensor) -> Tensor:
    """Return -1 and +1 with equal chance, of `shape` = [B, …], as `uniform` draws."""
    return torch.where(uniform(generator, shape, like=like) < 0.5, -1.0, 1.0).to(like)  # noqa: PLR2004
