"""One forward pass, then one backward pass a loss, and no weight gradient.

Layer inputs come from forward hooks. Output gradients come from autograd, asked for the
gradient at each layer's output alone: it then leaves every weight gradient out. Losses are
summed over the batch, so the rows of an output gradient belong to single examples as long as
the model treats examples independently (evaluation mode).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge

from sourcetrace.core.errors import InputError
from sourcetrace.core.gradients import LayerGradient, per_example_gradient
from sourcetrace.core.layers import Layer


@dataclass
class _Recording:
    """What one forward pass left behind, by layer name."""

    inputs: dict[str, Tensor] = field(default_factory=dict)
    versions: dict[str, int] = field(default_factory=dict)
    outputs: dict[str, GradientEdge] = field(default_factory=dict)


class ForwardPass:
    """The captured forward pass of a batch; each call of `output_gradients` is a backward pass."""

    def __init__(
        self, model: nn.Module, layers: Sequence[Layer], recording: _Recording, outputs: Any
    ) -> None:
        self.outputs = outputs
        self._layers = layers
        self._modules = {layer.name: model.get_submodule(layer.name) for layer in layers}
        self._recording = recording

    def inputs(self, *, examples: int | None = None) -> dict[str, Tensor]:
        """Return the layer inputs, name -> [N, groups, S, D_in].

        Args:
            examples: N, where it is known; a layer with another first dimension is refused.
        """
        result = {}
        for layer in self._layers:
            values = self._recording.inputs[layer.name]
            if examples is not None and values.shape[0] != examples:
                raise InputError(
                    f"{layer.name}: its input has shape {list(values.shape)} for a batch of "
                    f"{examples} examples; the first dimension must be the example. Put the "
                    "batch first in the model, or freeze this layer."
                )
            if values._version != self._recording.versions[layer.name]:
                raise InputError(
                    f"{layer.name}: its input was changed in place after the layer read it, "
                    "so the gradient cannot be rebuilt. Replace the in-place operation."
                )
            result[layer.name] = layer.inputs_of(self._modules[layer.name], values)
        return result

    def output_gradients(self, loss: Tensor, *, last: bool) -> dict[str, Tensor]:
        """Return the gradients of Σ loss at the layer outputs, name -> [N, groups, S, D_out].

        Args:
            loss: One value an example, [N].
            last: Whether no further backward pass follows; the graph is freed then.
        """
        edges = [self._recording.outputs[layer.name] for layer in self._layers]
        found = torch.autograd.grad(loss.sum(), edges, retain_graph=not last, allow_unused=True)
        result = {}
        for layer, gradient in zip(self._layers, found, strict=True):
            if gradient is None:
                raise InputError(
                    f"{layer.name}: the loss does not depend on this layer's output. "
                    "Freeze its parameters (requires_grad_(False)) or use it in the loss."
                )
            module = self._modules[layer.name]
            result[layer.name] = layer.output_gradients_of(module, gradient)
        return result

    def gradients(
        self, inputs: Mapping[str, Tensor], output_gradients: Mapping[str, Tensor]
    ) -> dict[str, LayerGradient]:
        """Join layer inputs and output gradients to per-example gradients."""
        return {
            name: per_example_gradient(inputs[name], gradient)
            for name, gradient in output_gradients.items()
        }


@contextmanager
def _recording_hooks(model: nn.Module, layers: Sequence[Layer]) -> Iterator[_Recording]:
    recording = _Recording()
    handles = []

    def hook_for(name: str) -> Callable[..., None]:
        def record(
            module: nn.Module,
            arguments: tuple[Tensor, ...],
            keywords: Mapping[str, Tensor],
            output: Tensor,
        ) -> None:
            values = arguments[0] if arguments else keywords["input"]
            recording.inputs[name] = values.detach()
            recording.versions[name] = values._version
            # The edge, not the tensor: an in-place activation would change the tensor's own.
            recording.outputs[name] = get_gradient_edge(output)

        return record

    try:
        for layer in layers:
            module = model.get_submodule(layer.name)
            handles.append(module.register_forward_hook(hook_for(layer.name), with_kwargs=True))
        yield recording
    finally:
        for handle in handles:
            handle.remove()


def capture_forward(
    model: nn.Module, layers: Sequence[Layer], run_forward: Callable[[], Any]
) -> ForwardPass:
    """Run one forward pass of `model` and keep what the backward passes need."""
    with torch.enable_grad(), _recording_hooks(model, layers) as recording:
        outputs = run_forward()
    missing = [layer.name for layer in layers if layer.name not in recording.outputs]
    if missing:
        raise InputError(
            f"The forward pass did not call {', '.join(missing)}, which an earlier batch did. "
            "Models whose layers depend on the data are not supported."
        )
    return ForwardPass(model, layers, recording, outputs)


def per_example_loss(loss: Tensor, *, name: str, examples: int) -> Tensor:
    """Return `loss` if it is one value an example, [B]; say what to change otherwise."""
    if loss.shape != (examples,):
        raise InputError(
            f"{name} returned shape {list(loss.shape)} for a batch of {examples} examples; "
            f"expected [{examples}], one value an example. "
            "Use reduction='none' and do not average over the batch."
        )
    return loss
