"""nn.RNN, nn.LSTM and nn.GRU, and their cells: projections that are no modules.

A gate's input is W_ih x_t + W_hh h_{t−1}, so that the gradients are Σ_t δ_t x_tᵀ and
Σ_t δ_t h_{t−1}ᵀ with the gradient δ_t at each projection; of a GRU they differ by the reset gate.
Every weight is a layer with its own bias. torch's fused kernels hide δ_t: while a pass is
recorded, `unrolled` stands for them.
"""

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812, the name everybody reads
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from sourcetrace.core.layers.kinds.linear import LINEAR
from sourcetrace.core.layers.kinds.types import overridden
from sourcetrace.core.layers.layer import Call, Note, Offer, Site, Slot
from sourcetrace.core.layers.unrolled import unrolled_functions

_KNOWN = (nn.RNN, nn.LSTM, nn.GRU, nn.RNNCell, nn.LSTMCell, nn.GRUCell)

_OF_A_CELL = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
_WEIGHT = "weight_"


def is_recurrent(module: nn.Module) -> bool:
    """Return whether a module computes what one of torch's recurrent ones does."""
    kind = type(module)
    return any(issubclass(kind, one) and not overridden(kind, one) for one in _KNOWN)


def recurrent_offer(name: str, module: nn.Module) -> Offer:
    """Return a slot for every weight of a recurrent module, with its bias."""
    expected = getattr(module, "_flat_weights_names", _OF_A_CELL)
    if other := module._parameters.keys() ^ expected:
        return f"{type(module).__name__} whose parameters are others ({min(other)})"
    return [
        Slot(
            site=Site(name, LINEAR, part),
            weight=weight,
            groups=1,
            outputs=weight.shape[0],
            inputs=weight.shape[1],
            bias=getattr(module, f"bias_{part}", None),
            bias_groups=1,
        )
        for part, weight in _weights(module).items()
    ]


def _weights(module: nn.Module) -> dict[str, nn.Parameter]:
    return {
        name.removeprefix(_WEIGHT): parameter
        for name, parameter in module.named_parameters(recurse=False, remove_duplicate=False)
        if name.startswith(_WEIGHT)
    }


@contextmanager
def unrolled(functions: Mapping[str, Callable[..., Any]] | None = None) -> Iterator[None]:
    """Let recurrent modules run step by step while the context is open.

    cuDNN's kernels have no gradient in evaluation mode, and no fused kernel has a second one.

    Args:
        functions: By torch's names; None for those that note nothing.
    """
    functions = functions or unrolled_functions(F.linear, lambda: None)
    namespace = vars(torch._VF)
    before = {name: namespace[name] for name in functions if name in namespace}
    try:
        namespace.update(functions)
        yield
    finally:
        for name in functions:
            del namespace[name]
        namespace.update(before)


@contextmanager
def recurrent_calls(model: nn.Module, sites: Collection[Site], note: Note) -> Iterator[None]:
    """Note the calls of recurrent modules' projections while the context is open."""
    keys: dict[nn.Module, dict[int, str]] = {}
    for site in sites:
        module = model.get_submodule(site.module)
        if isinstance(module, nn.RNNBase | nn.RNNCellBase):
            keys.setdefault(module, {})[id(_weights(module)[site.part])] = site.key
    if not keys:
        yield
        return
    running: list[tuple[nn.Module, Tensor | None]] = []
    handles = []

    def start(module: nn.Module, arguments: tuple[Any, ...], keywords: Mapping[str, Any]) -> None:
        values = arguments[0] if arguments else keywords["input"]
        packed = isinstance(values, PackedSequence)
        running.append((module, values.unsorted_indices if packed else None))

    def stop(*_: object) -> None:
        running.pop()

    def noting(values: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        output = F.linear(values, weight, bias)
        key = keys[running[-1][0]].get(id(weight)) if running else None
        if key is not None:
            note(key, Call.of(key, values, output))
        return output

    def order() -> Tensor | None:
        return running[-1][1] if running else None

    try:
        for module in keys:
            handles.append(module.register_forward_pre_hook(start, with_kwargs=True))
            handles.append(module.register_forward_hook(stop, always_call=True))
        with unrolled(unrolled_functions(noting, order)):
            yield
    finally:
        for handle in handles:
            handle.remove()
