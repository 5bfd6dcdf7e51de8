"""What the numerics ask of a training task: a forward pass and three losses.

The losses are separate from the forward pass so that one forward pass serves several
backward passes. Every loss returns one value an example, [B].
"""

import inspect
import math
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

    def sampled_loss(self, outputs: Any, generator: torch.Generator, batch: Any) -> Tensor:
        """Return a loss with a random gradient, [B]; only its gradient at the outputs counts.

        Its second moment over draws must be the Gauss–Newton matrix of `train_loss`, the Hessian
        at the outputs: E[∇ ∇ᵀ] = ∇²_outputs train_loss. Where `train_loss` is a negative log
        likelihood, the loss of labels drawn from the model has that; so has, with less spread, B ε
        with random signs ε and B Bᵀ the Hessian. Where it is a sum Σ_t w_t ℓ_t of such losses, as a
        mean over T tokens is with w_t = 1/T, the gradients of the ℓ_t, drawn independently, are
        multiplied by √w_t and not by w_t.

        `batch` has masks and weights; an objective that needs none may leave the argument out.
        """

    def measurement(self, outputs: Any, batch: Any) -> Tensor:
        """Return the scalar of each example that is explained, [B]."""


def sampled_loss(
    objective: Objective, outputs: Any, generator: torch.Generator, batch: Any
) -> Tensor:
    """Return the objective's sampled loss, given the batch if it has an argument of that name."""
    if "batch" in inspect.signature(objective.sampled_loss).parameters:
        return objective.sampled_loss(outputs, generator, batch=batch)
    return objective.sampled_loss(outputs, generator)  # type: ignore[call-arg]


class ExampleGenerator(torch.Generator):
    """A random generator whose draws belong to examples, not to positions in a batch.

    It works wherever a `torch.Generator` does. `uniform` also gives every example its own
    stream, so that a label sampled for an example depends on the seed and the example
    alone: scores then stay the same under another batch size or order of the data. Every call
    of `uniform` draws anew, as the second of two heads needs it.

    Attributes:
        example_seeds: One an example.
        draw: Number of the draw, where each example has several, from 0.
        calls: Of `uniform` and `signs` so far.
        columns: Signs of an example so far.
    """

    example_seeds: tuple[int, ...] = ()
    draw: int = 0
    calls: int = 0
    columns: int = 0

    @classmethod
    def for_examples(cls, seeds: Sequence[int], *, draw: int = 0) -> "ExampleGenerator":
        """Return a generator for a batch whose examples have these seeds."""
        generator = cls()
        generator.manual_seed(_mixed(seeds[0] if seeds else 0, draw))
        generator.example_seeds = tuple(seeds)
        generator.draw = draw
        return generator


def uniform(generator: torch.Generator, shape: Sequence[int], *, like: Tensor) -> Tensor:
    """Return uniform draws in [0, 1) of `shape` = [B, …], on the device and dtype of `like`.

    Drawn in float64 on the CPU, so that every device sees the same numbers.
    """
    draws = _uniform(generator, shape, like=like, draw=getattr(generator, "draw", 0)).to(like)
    # A draw just below 1 rounds to 1 in float32, where an inverse distribution is infinite.
    return draws.clamp_(max=1 - torch.finfo(like.dtype).eps)


def signs(generator: torch.Generator, shape: Sequence[int], *, like: Tensor) -> Tensor:
    """Return -1 and +1 with equal chance, of `shape` = [B, …], as `uniform` draws.

    An example's draws ε_k, where it has K of them, are the first one times the rows of a Walsh
    matrix: the mean of ε_k ε_kᵀ is the expectation itself, the identity, where K is a power of
    two and there are no more signs than that.
    """
    upper = _uniform(generator, shape, like=like, draw=0, least=0.5)
    drawn = upper.to(like).mul_(2).sub_(1)
    if isinstance(generator, ExampleGenerator):
        count = math.prod(shape[1:])
        if generator.draw:  # the first row is 1 everywhere
            columns = torch.arange(generator.columns, generator.columns + count)
            drawn.mul_(_walsh(generator.draw, columns).reshape(tuple(shape[1:])).to(drawn))
        generator.columns += count
    return drawn


def _uniform(
    generator: torch.Generator,
    shape: Sequence[int],
    *,
    like: Tensor,
    draw: int,
    least: float | None = None,
) -> Tensor:
    """Return draws in float64, or which are at least `least`: a large vocabulary has many."""
    if isinstance(generator, ExampleGenerator) and len(generator.example_seeds) == shape[0] > 0:
        stream = torch.Generator()
        rows = []
        for seed in generator.example_seeds:
            stream.manual_seed(_mixed(seed ^ generator.calls, draw))
            row = torch.rand(tuple(shape[1:]), generator=stream, dtype=torch.float64)
            rows.append(row if least is None else row >= least)
        generator.calls += 1
        return torch.stack(rows)
    draws = torch.rand(
        tuple(shape), generator=generator, dtype=torch.float64, device=generator.device
    )
    return draws if least is None else draws >= least


def _mixed(seed: int, draw: int) -> int:
    return seed ^ draw << 16  # a generator of the CPU is seeded by the low 32 bits


def _walsh(row: int, columns: Tensor) -> Tensor:
    """Return (-1)^(number of bits that row and column share)."""
    shared = columns & row
    odd = torch.zeros_like(columns)
    for bit in range(row.bit_length()):
        odd ^= shared >> bit & 1
    return 1 - 2 * odd
