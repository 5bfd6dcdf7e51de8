"""Fixed dropout masks: a trained network thinned in several ways, as if trained several times.

A mask multiplies the output of every dropout module by 0 or 1/(1−p), the same for all
examples, checkpoints and passes; the rest of the model stays in evaluation mode.

Source: Deng et al. 2024, arXiv 2405.17293.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from sourcetrace.core.model.examples import example_seed
from sourcetrace.errors import InputError

_WHOLE_CHANNELS = (nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)
"""Modules that drop a channel at all its places."""

# Of splitmix64, as signed numbers: torch has no others of 64 bits.
_STEP = 0x9E3779B97F4A7C15 - (1 << 64)
_FIRST_FACTOR = 0xBF58476D1CE4E5B9 - (1 << 64)
_SECOND_FACTOR = 0x94D049BB133111EB - (1 << 64)


def _dropout_modules(model: nn.Module) -> dict[str, nn.Module]:
    """Return the modules that masks act on, by name.

    Raises:
        InputError: If there is none.
    """
    found = {
        name: module
        for name, module in model.named_modules()
        # The exact class: a subclass may compute something else.
        if type(module) in (nn.Dropout, *_WHOLE_CHANNELS) and 0 < module.p < 1
    }
    if not found:
        raise InputError(
            "ensemble.dropout_masks: the model has no nn.Dropout, nn.Dropout1d, nn.Dropout2d or "
            "nn.Dropout3d with p between 0 and 1 (calls of functional.dropout cannot be seen). "
            "Set it to 0, or let build_model() use dropout modules as in training."
        )
    return found


@contextmanager
def dropout_mask(
    model: nn.Module, number: int, *, seed: int, examples: int | None = None
) -> Iterator[None]:
    """Thin `model` by a fixed mask while the context is open.

    Args:
        model: The model, in evaluation mode.
        number: Of the mask, from 1; 0 leaves the model whole.
        seed: Of all masks.
        examples: N, where it is known; a module whose input is not batched by example is
            then refused.

    Raises:
        InputError: If the model has no dropout module.
    """
    handles = []
    try:
        if number:
            for name, module in _dropout_modules(model).items():
                hook = _hook(name, example_seed(seed, f"dropout mask {number}", name), examples)
                handles.append(module.register_forward_hook(hook))
        yield
    finally:
        for handle in handles:
            handle.remove()


def _hook(name: str, seed: int, examples: int | None) -> Callable[..., Tensor]:
    def thin(module: nn.Module, _: object, output: Tensor) -> Tensor:
        if examples is not None and (output.ndim < 1 or output.shape[0] not in (1, examples)):
            raise InputError(
                f"{name}: its input has shape {list(output.shape)} for a batch of {examples} "
                "examples; dimension 0 must be the example, so that all have the same dropout "
                "mask. Put the batch first in the model, or set ensemble.dropout_masks to 0."
            )
        shape = list(output.shape[1:])
        if isinstance(module, _WHOLE_CHANNELS):
            shape = [*shape[:1], *(1 for _ in shape[1:])]
        p = float(module.p)  # type: ignore[arg-type]
        kept = _uniform_at(shape, seed=seed) >= p
        return output * (kept.to(output) / (1 - p))

    return thin


def _uniform_at(shape: Sequence[int], *, seed: int) -> Tensor:
    """Return uniform numbers in [0, 1), float64 of `shape`, each from the seed and its index alone.

    A shorter sequence therefore gets the beginning of a longer one's numbers.

    Source: the mixing steps of splitmix64, Steele et al. 2014.
    """
    state = _mixed(torch.tensor(seed))
    for size in shape:
        state = _mixed(state.unsqueeze(-1) + torch.arange(1, size + 1) * _STEP)
    return _shifted(state, 11).double() / 2**53


def _mixed(state: Tensor) -> Tensor:
    state = (state ^ _shifted(state, 30)) * _FIRST_FACTOR
    state = (state ^ _shifted(state, 27)) * _SECOND_FACTOR
    return state ^ _shifted(state, 31)


def _shifted(state: Tensor, bits: int) -> Tensor:
    """Shift right as if unsigned, which torch's int64 does not."""
    return (state >> bits) & ((1 << (64 - bits)) - 1)
