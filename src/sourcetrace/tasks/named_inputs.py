"""Inputs by name, as models of Hugging Face's transformers take them."""

from collections.abc import Mapping, Sequence
from inspect import Parameter, signature
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

_NOTHING: Mapping[str, float] = {}


def logits_of(model: nn.Module, inputs: Mapping[str, Any] | Tensor) -> Any:
    """Return the logits for those of the inputs that the model has arguments for.

    Of what it returns they are the `logits`, the first of several, or itself.
    """
    if isinstance(inputs, Tensor):
        outputs = model(inputs)
    else:
        taken = signature(model.forward).parameters
        everything = any(one.kind is Parameter.VAR_KEYWORD for one in taken.values())
        outputs = model(
            **{name: one for name, one in inputs.items() if everything or name in taken}
        )
    outputs = getattr(outputs, "logits", outputs)
    return outputs[0] if isinstance(outputs, tuple) else outputs


def padded(
    items: Sequence[Mapping[str, Any]], *, fill: Mapping[str, float] = _NOTHING, side: str = "right"
) -> dict[str, Tensor]:
    """Return inputs by name, [B, T, …], each padded to its longest.

    Args:
        items: Tensors or lists, [T, …], or one number.
        fill: Name -> what stands in the padding, 0 by default.
        side: Where the padding is.
    """

    def joined(name: str) -> Tensor:
        values = [torch.as_tensor(item[name]) for item in items]
        if not values[0].ndim:
            return torch.stack(values)
        return pad_sequence(
            values, batch_first=True, padding_value=fill.get(name, 0), padding_side=side
        )

    return {name: joined(name) for name in items[0]}
