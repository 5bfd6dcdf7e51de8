"""What is said of one kind of module, so that its layers can be attributed."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from sourcetrace.core.layers.kinds.pixels import Pixels


@dataclass(frozen=True)
class LayerType:
    """How one kind of module, with a weight and perhaps a bias, lays out what it met.

    Attributes:
        module: The module class, or its full name, such as
            "transformers.pytorch_utils.Conv1D", where importing it is too much. Subclasses are of
            the same kind, but not of a name, while they override nothing that it computes with.
        positions: Module and input, [N, …] -> layer inputs, [N, groups, S, D_in], without the
            ones; integers [N, S] where `indexed`, -1 where a position has no gradient.
        output_positions: Module and output gradient, [N, …] -> [N, groups, S, D_out].
        groups: Number of independent blocks of the weight.
        pixels: Module and input -> what a convolution's patches are made of, without the ones;
            None where that does not say it.
        transposed: Whether the weight is stored as [D_in, D_out]; with groups, the input's.
        channels_last: Whether the weight's second dimension runs fastest: a convolution's kernel
            positions slowest, its channels fastest.
        names: Of the parameters that are the weight and the bias.
        bias: How a bias is laid out that meets its ones elsewhere than the weight its inputs, and
            so makes a layer of its own, in one group. None where it is a column of the weight's.
        indexed: Whether the inputs are one-hot and given by their index.
        feature_dimensions: How many last dimensions of the input are features; those before may
            be in any order, so that the example need not be the first. None where it must be.
        refusal: Why this module cannot be attributed, or "": an example alone does not tell its
            gradient, so that its parameters are not bare either.
        call: Module, number of examples (None where it is not known), output and arguments of a
            call -> what `positions` takes, the tensor whose gradient `output_positions` takes, and
            what is returned in place of the output, which must be computed from that tensor. None
            for the first argument, the output and the output. Examples lie in all of them as in
            the output.
    """

    module: type[nn.Module] | str
    positions: Callable[[Any, Tensor], Tensor]
    output_positions: Callable[[Any, Tensor], Tensor]
    groups: Callable[[Any], int] = lambda _: 1
    pixels: Callable[[Any, Tensor], Pixels | None] | None = None
    transposed: bool = False
    channels_last: bool = False
    names: tuple[str, str] = ("weight", "bias")
    bias: "LayerType | None" = None
    indexed: bool = False
    feature_dimensions: Callable[[Any], int] | None = None
    refusal: Callable[[Any], str] = lambda _: ""
    call: Callable[..., tuple[Tensor, ...]] | None = None

    def fits(self, module: nn.Module) -> bool:
        """Return whether `module` is of this kind."""
        kind = type(module)
        if isinstance(self.module, str):
            return f"{kind.__module__}.{kind.__qualname__}" == self.module
        return issubclass(kind, self.module) and not overridden(kind, self.module)


_ELSEWHERE = {"weight", "bias", "__call__", "_call_impl", "__getattr__", "__getattribute__"}
"""What a known class leaves to nn.Module, and computes with."""

_WITHOUT_SAY = {
    "_fill_padding_idx_with_zero",
    "extra_repr",
    "from_pretrained",
    "reset_parameters",
    "reset_running_stats",
}
"""What it has for other times."""


def overridden(kind: type[nn.Module], known: type[nn.Module]) -> list[str]:
    """Return what of a known class's computation a subclass has its own of."""
    bases = known.__mro__[: known.__mro__.index(nn.Module)]
    used = {name for base in bases for name in vars(base) if not name.startswith("__")}
    subclasses = kind.__mro__[: kind.__mro__.index(known)]
    own = {name for subclass in subclasses for name in vars(subclass)}
    return sorted(own & (used - _WITHOUT_SAY | _ELSEWHERE))


def second_run() -> AbstractContextManager[object]:
    """Return a context for what a module computes again.

    Recomputed activations count the tensors that a forward pass saves, and this is none.
    """
    return saved_tensors_hooks(_itself, _itself)


def _itself(tensor: Tensor) -> Tensor:
    return tensor
