"""Layers whose gradient is a sum of outer products, and the parameters that have none.

For a layer with inputs a_s and output gradients g_s at positions s, the gradient of the
weight is Σ_s g_s a_sᵀ. A layer type says how to lay out the two, [N, groups, S, D_in] and
[N, groups, S, D_out], the bias folded in as a column of ones. A new layer type is one
`LayerType` in `LAYER_TYPES`.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812, the name everybody reads
from torch import Tensor, nn

from sourcetrace.core.errors import InputError


@dataclass(frozen=True)
class LayerType:
    """How one kind of module lays out its inputs and output gradients.

    Attributes:
        module: The exact module class; subclasses may compute something else.
        groups: Number of independent blocks of the weight.
        positions: Inputs of the module -> [N, groups, S, D_in], without the ones.
        output_positions: Output gradient of the module -> [N, groups, S, D_out].
    """

    module: type[nn.Module]
    groups: Callable[[Any], int]
    positions: Callable[[Any, Tensor], Tensor]
    output_positions: Callable[[Any, Tensor], Tensor]


def _linear_positions(module: nn.Linear, values: Tensor) -> Tensor:
    return values.reshape(values.shape[0], 1, -1, values.shape[-1])


def _conv2d_padding(module: nn.Conv2d) -> tuple[int, int, int, int]:
    """Return the padding as `F.pad` wants it: left, right, top, bottom."""
    if module.padding == "valid":
        return (0, 0, 0, 0)
    if module.padding == "same":
        # torch puts the odd row or column at the end.
        extent = [d * (k - 1) for d, k in zip(module.dilation, module.kernel_size, strict=True)]
        top, left = extent[0] // 2, extent[1] // 2
        return (left, extent[1] - left, top, extent[0] - top)
    height, width = int(module.padding[0]), int(module.padding[1])
    return (width, width, height, height)


def _conv2d_positions(module: nn.Conv2d, inputs: Tensor) -> Tensor:
    mode = "constant" if module.padding_mode == "zeros" else module.padding_mode
    padded = F.pad(inputs, _conv2d_padding(module), mode=mode)
    patches = F.unfold(
        padded, module.kernel_size, dilation=module.dilation, stride=module.stride
    )  # [N, C_in · k · k, S], channels slowest, so groups are contiguous
    return _by_group(patches, module.groups)


def _conv2d_output_positions(module: nn.Conv2d, gradients: Tensor) -> Tensor:
    return _by_group(gradients.flatten(2), module.groups)


def _by_group(values: Tensor, groups: int) -> Tensor:
    """Split channels into groups: [N, groups · D, S] -> [N, groups, S, D]."""
    examples, channels, positions = values.shape
    return values.reshape(examples, groups, channels // groups, positions).transpose(2, 3)


LAYER_TYPES: tuple[LayerType, ...] = (
    LayerType(nn.Linear, lambda module: 1, _linear_positions, _linear_positions),
    LayerType(
        nn.Conv2d,
        lambda module: int(module.groups),
        _conv2d_positions,
        _conv2d_output_positions,
    ),
)


@dataclass(frozen=True)
class Layer:
    """One attributed module of a model.

    Attributes:
        name: The module's name in the model.
        kind: How its inputs and gradients are laid out.
        groups: Number of independent blocks.
        inputs: D_in of a block, the ones' column counted.
        outputs: D_out of a block.
        has_bias: Whether the last input column is the bias's.
        parameters: Names of the parameters it attributes.
    """

    name: str
    kind: LayerType
    groups: int
    inputs: int
    outputs: int
    has_bias: bool
    parameters: tuple[str, ...]

    @property
    def shape(self) -> tuple[int, int, int]:
        """[groups, D_out, D_in] of one gradient."""
        return (self.groups, self.outputs, self.inputs)

    @property
    def size(self) -> int:
        """Number of attributed parameters."""
        return math.prod(self.shape)

    def inputs_of(self, module: nn.Module, values: Tensor) -> Tensor:
        """Return the layer inputs, [N, groups, S, D_in], ones appended for a bias."""
        positions = self.kind.positions(module, values)
        if self.has_bias:
            positions = F.pad(positions, (0, 1), value=1.0)
        if positions.shape[-1] != self.inputs:
            raise InputError(
                f"{self.name}: the inputs have {positions.shape[-1]} features, the weight "
                f"expects {self.inputs}. Is the module called with another input elsewhere?"
            )
        return positions

    def output_gradients_of(self, module: nn.Module, gradients: Tensor) -> Tensor:
        """Return the output gradients, [N, groups, S, D_out]."""
        return self.kind.output_positions(module, gradients)

    def weight_matrix(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """Lay out parameters (or gradients) named as in the model as [groups, D_out, D_in]."""
        weight = tensors[self.parameters[0]].reshape(self.groups, self.outputs, -1)
        if not self.has_bias:
            return weight
        bias = tensors[self.parameters[1]].reshape(self.groups, self.outputs, 1)
        return torch.cat([weight, bias], dim=2)


@dataclass(frozen=True)
class Unattributed:
    """A parameter that carries no attribution, and why."""

    name: str
    size: int
    reason: str


@dataclass(frozen=True)
class Coverage:
    """Which parameters of a model are attributed; nothing is skipped in silence."""

    layers: tuple[Layer, ...]
    unattributed: tuple[Unattributed, ...]

    @property
    def share(self) -> float:
        """Share of the model's parameters that carry attribution, 0 to 1."""
        attributed = sum(layer.size for layer in self.layers)
        total = attributed + sum(parameter.size for parameter in self.unattributed)
        return attributed / total if total else 0.0


def find_layers(model: nn.Module, run_forward: Callable[[], object]) -> Coverage:
    """Find the layers of `model` that can be attributed, by one forward pass over it.

    Args:
        model: The model.
        run_forward: Runs one forward pass of the model; calls of modules are counted,
            because a module used twice has no single outer product an example.

    Raises:
        InputError: If no parameter at all can be attributed.
    """
    calls = _count_calls(model, run_forward)
    owners = Counter(id(p) for _, p in _all_parameters(model))
    kinds = {kind.module: kind for kind in LAYER_TYPES}
    layers: list[Layer] = []
    unattributed: list[Unattributed] = []
    seen: set[int] = set()
    for name, module in model.named_modules():
        own = [(_join(name, key), p) for key, p in module.named_parameters(recurse=False)]
        own = [(key, p) for key, p in own if id(p) not in seen]
        seen.update(id(p) for _, p in own)
        if not own:
            continue
        reason = _unsupported_reason(module, own, kinds, calls[name], owners)
        if reason:
            unattributed += [Unattributed(key, p.numel(), reason) for key, p in own]
        else:
            layers.append(_layer(name, module, kinds[type(module)]))
    if not layers:
        names = ", ".join(f"{p.name} ({p.reason})" for p in unattributed[:5])
        raise InputError(
            "No parameter of the model can be attributed: expected at least one trainable "
            f"nn.Linear or nn.Conv2d that a forward pass calls once, found {names or 'none'}."
        )
    return Coverage(tuple(layers), tuple(unattributed))


def _count_calls(model: nn.Module, run_forward: Callable[[], object]) -> Counter[str]:
    calls: Counter[str] = Counter()
    handles = []
    try:
        for name, module in model.named_modules():
            # The default binds the name now; a closure would see the last one.
            def count(*_: object, name: str = name) -> None:
                calls[name] += 1

            handles.append(module.register_forward_hook(count))
        with torch.no_grad():
            run_forward()
    finally:
        for handle in handles:
            handle.remove()
    return calls


def _all_parameters(model: nn.Module) -> Iterable[tuple[str, nn.Parameter]]:
    for name, module in model.named_modules():
        for key, parameter in module.named_parameters(recurse=False):
            yield _join(name, key), parameter


def _unsupported_reason(
    module: nn.Module,
    own: list[tuple[str, nn.Parameter]],
    kinds: Mapping[type[nn.Module], LayerType],
    calls: int,
    owners: Counter[int],
) -> str:
    # All of the module's, not only its `own`: a tied weight counts where it is seen first.
    everything = dict(module.named_parameters(recurse=False))
    if type(module) not in kinds or "weight" not in everything:
        return f"{type(module).__name__} is not supported"
    if any(not p.requires_grad for p in everything.values()):
        return "frozen (requires_grad is False)"
    if any(owners[id(p)] > 1 for p in everything.values()):
        return "tied: another module has the same parameter"
    if calls != 1:
        return f"called {calls} times in one forward pass"
    return ""


def _layer(name: str, module: nn.Module, kind: LayerType) -> Layer:
    own = dict(module.named_parameters(recurse=False))
    weight = own["weight"]
    groups = kind.groups(module)
    outputs = weight.shape[0] // groups
    has_bias = "bias" in own
    return Layer(
        name=name,
        kind=kind,
        groups=groups,
        inputs=weight.numel() // weight.shape[0] + has_bias,
        outputs=outputs,
        has_bias=has_bias,
        parameters=tuple(_join(name, key) for key in ("weight", "bias")[: 1 + has_bias]),
    )


def _join(module: str, parameter: str) -> str:
    return f"{module}.{parameter}" if module else parameter
