"""A stand-in for a GPU: `cuda` on a machine without one, its tensors computed by the CPU.

A tensor of the stand-in is a wrapper around one on the CPU, and all that torch is asked to do with
it passes `__torch_dispatch__`, below autograd and hooks. To torch itself its device is `lazy`,
which this build has no operations for; Python is told `cuda:0`.

What it sees: an operation on tensors of both devices that CUDA would refuse, though a caller
catches the error (`StandIn.refused`); NumPy asked for a tensor's memory; a generator of the other
device; products of whole numbers, which CUDA does not have; sums whose order is open on a GPU, and
with it their last bits (`StandIn.unordered`).

What it does not see: numbers that differ by their rounding, memory that runs out, autocast (passes
remain in float32), whether CUDA has an operation at all in a dtype other than whole numbers',
streams, several GPUs, other processes, and code that asks torch, not Python, for the device.
"""

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import product
from typing import Any

import pytest
import torch
from torch.utils._pytree import tree_leaves, tree_map

GPU = torch.device("cuda:0")

_INDEXING = {"aten::index", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_"}
"""Their indices may lie on the CPU."""

_SCALARS = {"aten::fill_", "aten::masked_fill", "aten::masked_fill_", *_INDEXING}
"""Beside what works number by number, these take a single number from the CPU."""

_PRODUCTS = {"aten::mm", "aten::bmm", "aten::addmm", "aten::baddbmm", "aten::mv", "aten::dot"}

_UNORDERED = {
    f"aten::{name}{place}"
    for name in ("index_add", "scatter_add", "scatter_reduce", "cumsum", "put", "bincount")
    for place in ("", "_")
}
"""Atomic additions, and what torch's notes on reproducibility have beside them."""

_MADE = (
    *("empty.memory_format", "empty_strided", "arange", "arange.start", "arange.start_step"),
    *("linspace", "eye", "eye.m", "randperm", "tril_indices", "triu_indices"),
)
"""What makes tensors from nothing; others such as `zeros` fill one that is empty."""


_ANSWERS = {
    "is_available": True,
    "is_bf16_supported": True,
    "device_count": 1,
    "mem_get_info": (2**33, 2**33),
    **dict.fromkeys(("memory_reserved", "memory_allocated", "max_memory_allocated"), 0),
    **dict.fromkeys(("_lazy_init", "reset_peak_memory_stats", "empty_cache", "synchronize")),
}
"""Function of `torch.cuda` -> what it says."""


class _OnGpu(torch.Tensor):
    """A tensor of the stand-in.

    Attributes:
        held: The one on the CPU.
    """

    held: torch.Tensor
    seen: "StandIn"

    @staticmethod
    def __new__(cls, held):
        layout = {"strides": held.stride(), "storage_offset": held.storage_offset()}
        made = torch.Tensor._make_wrapper_subclass(
            cls, held.shape, dtype=held.dtype, device="lazy:0", **layout
        )
        made.held = held
        return made

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, operation, types, args=(), kwargs=None):
        return cls.seen.run(operation, args, kwargs or {})

    device = property(lambda self: GPU)
    data = property(torch.Tensor.detach)

    def numpy(self, **_):
        raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() first")

    def tolist(self):
        return self.cpu().tolist()

    def untyped_storage(self):
        return self.held.untyped_storage()

    def __deepcopy__(self, memo):
        made = self.detach().clone().requires_grad_(self.requires_grad)
        made._is_param = getattr(self, "_is_param", False)
        return memo.setdefault(id(self), made)


class StandIn:
    """What was seen of a run.

    Attributes:
        refused: What CUDA would have refused, in words.
        unordered: Operations with floating-point numbers whose order is open, how often.
    """

    def __init__(self) -> None:
        self.refused: list[str] = []
        self.unordered: Counter[str] = Counter()

    def run(self, operation, args, kwargs) -> Any:
        """Do on the CPU what was asked for, if a GPU would."""
        name = operation._schema.name
        tensors = [one for one in tree_leaves((args, kwargs)) if isinstance(one, torch.Tensor)]
        self._refuse(operation, name, args, kwargs, tensors)
        if name in _UNORDERED and any(one.is_floating_point() for one in tensors):
            self.unordered[name] += 1
        target = kwargs.get("device")
        if target is not None:
            kwargs = {**kwargs, "device": torch.device("cpu")}
        held = tree_map(lambda one: one.held if isinstance(one, _OnGpu) else one, (args, kwargs))
        known = {id(getattr(one, "held", one)): one for one in tensors}
        found = 0 if name == "aten::_fused_sdp_choice" else operation(*held[0], **held[1])
        stays = target is None or torch.device(target).type != "cpu"

        def wrapped(one: Any) -> Any:
            if not isinstance(one, torch.Tensor) or not stays:
                return one
            before = known.get(id(one))
            if before is not None and before.shape != one.shape:
                raise NotImplementedError(f"{name} changes the shape of a tensor in place")
            return _OnGpu(one) if before is None else before

        return tree_map(wrapped, found)

    def _refuse(self, operation, name, args, kwargs, tensors) -> None:
        if name in ("aten::copy_", "aten::_to_copy"):
            return
        if name in _INDEXING:
            tensors = [one for one in (args[0], *args[2:3]) if isinstance(one, torch.Tensor)]
        pointwise = torch.Tag.pointwise in operation.tags or name in _SCALARS
        written = operation._schema.is_mutable and tensors and not isinstance(tensors[0], _OnGpu)
        mixed = [
            one for one in tensors if not isinstance(one, _OnGpu) and (one.dim() or not pointwise)
        ]
        if mixed or written:
            self._raise(f"{name}: Expected all tensors to be on the same device, cuda:0 and cpu")
        if name in _PRODUCTS and not tensors[0].is_floating_point():
            self._raise(f"{name} is not implemented for {tensors[0].dtype} on CUDA")
        if any(isinstance(one, torch.Generator) for one in tree_leaves((args, kwargs))):
            self._raise(f"{name}: Expected a 'cuda' device type for generator but found 'cpu'")

    def _raise(self, reason: str) -> None:
        self.refused.append(reason)
        raise RuntimeError(reason)


@contextlib.contextmanager
def stand_in(patch: pytest.MonkeyPatch) -> Iterator[StandIn]:
    """Let the machine have a GPU."""
    seen = StandIn()
    patch.setattr(_OnGpu, "seen", seen, raising=False)
    for name, answer in _ANSWERS.items():
        patch.setattr(torch.cuda, name, lambda *_, answer=answer: answer)
    for name in ("tensor", "as_tensor"):
        patch.setattr(torch, name, _then_moved(getattr(torch, name)))
    patch.setattr(torch.backends.cudnn, "is_acceptable", lambda _: False)
    patch.setattr(torch.Tensor, "to", _to(torch.Tensor.to))
    patch.setattr(torch.nn.Module, "_apply", _swapped(torch.nn.Module._apply))
    library = torch.library.Library("aten", "IMPL")
    for name, key in product(_MADE, ("CUDA", "Lazy")):
        library.impl(name, _made(name), key)
    try:
        yield seen
    finally:
        library._destroy()


def _made(name: str) -> Callable[..., torch.Tensor]:
    operator, _, overload = name.partition(".")
    operation = getattr(getattr(torch.ops.aten, operator), overload or "default")
    return lambda *args, device=None, pin_memory=None, **kwargs: _OnGpu(operation(*args, **kwargs))


def _then_moved(made: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    return lambda *args, device=None, **kwargs: made(*args, **kwargs).to(device=device)


def _to(original: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    """Let `cuda` be the device that torch has for the stand-in."""

    def named(value):
        named_cuda = isinstance(value, torch.device | str) and torch.device(value).type == "cuda"
        return torch.device("lazy:0") if named_cuda else value

    return lambda self, *args, **kwargs: original(
        self, *map(named, args), **{name: named(value) for name, value in kwargs.items()}
    )


def _swapped(original: Callable[..., torch.nn.Module]) -> Callable[..., torch.nn.Module]:
    """Let a module's parameters become the stand-in's and stay the same objects, as on a GPU."""

    def apply(*args):
        torch.__future__.set_swap_module_params_on_conversion(True)
        try:
            return original(*args)
        finally:
            torch.__future__.set_swap_module_params_on_conversion(False)

    return apply
