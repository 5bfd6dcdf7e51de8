"""Tensors inside what tasks pass around: batches and outputs of any make."""

import copy
import dataclasses
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence


# Not torch.utils._pytree: dataclasses and mappings that nobody registered there are leaves to it.
def map_tensors(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """Return nested mappings, tuples, lists and dataclasses with every tensor changed."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, MutableMapping):
        # A copy, not a dict: a language model's output is read by attribute.
        copied: Any = copy.copy(value)
        for key, inner in value.items():
            copied[key] = map_tensors(inner, change)
        return copied
    if isinstance(value, Mapping):
        return {key: map_tensors(inner, change) for key, inner in value.items()}
    if isinstance(value, tuple | list):
        parts = [map_tensors(inner, change) for inner in value]
        if isinstance(value, PackedSequence):  # these must stay on the CPU
            parts[1] = value.batch_sizes
        return type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        copied = copy.copy(value)
        for field in dataclasses.fields(value):
            # Frozen ones, too.
            object.__setattr__(copied, field.name, map_tensors(getattr(value, field.name), change))
        return copied
    return value


def to_dtype(value: Any, dtype: torch.dtype) -> Any:
    """Return nested values with every floating-point tensor in a precision."""
    return map_tensors(
        value, lambda tensor: tensor.to(dtype) if tensor.is_floating_point() else tensor
    )


def mean_state(states: Sequence[Mapping[str, Tensor]]) -> Mapping[str, Tensor]:
    """Return the mean of state dicts; of one, itself."""
    if len(states) == 1:
        return states[0]
    return {
        # Counters such as BatchNorm's are whole numbers; the last one stands.
        key: torch.stack([state[key] for state in states]).mean(0)
        if value.is_floating_point()
        else value
        for key, value in states[-1].items()
    }
