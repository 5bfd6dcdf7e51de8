"""What the numerics ask of a training task: a forward pass and three losses.

The losses are separate from the forward pass so that one forward pass serves several
backward passes. Every loss returns one value an example, [B].
"""

import inspect
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
    """

    example_seeds: tuple[int, ...] = ()
    calls: int = 0

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
    if isinstance(generator, ExampleGenerator) and len(generator.example_seeds) == shape[0] > 0:
        stream = torch.Generator()
        rows = [
            torch.rand(
                tuple(shape[1:]),
                generator=stream.manual_seed(seed ^ generator.calls),
                dtype=torch.float64,
            )
            for seed in generator.example_seeds
        ]
        generator.calls += 1
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
