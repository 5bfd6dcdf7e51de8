"""One forward pass, then one backward pass a loss, and no weight gradient.

Layer inputs come from the recorded forward pass. Output gradients come from autograd, asked
for the gradient at each call's output alone: it then leaves every weight gradient out. Losses
are summed over the batch, so the rows of an output gradient belong to single examples as long
as the model treats examples independently (evaluation mode).
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812, the name everybody reads
from torch import Tensor, nn

from sourcetrace.core.gradients.per_example import (
    LayerGradient,
    Positions,
    per_example_gradient,
)
from sourcetrace.core.gradients.recording import calls_noted
from sourcetrace.core.gradients.tied import TiedPositions
from sourcetrace.core.layers.fused_kernels import without_fused_kernels
from sourcetrace.core.layers.kinds.pixels import Pixels
from sourcetrace.core.layers.layer import Call, Layer, Site
from sourcetrace.errors import InputError


class ForwardPass:
    """The captured forward pass of a batch; each call of `output_gradients` is a backward pass.

    Args:
        model: The model, in evaluation mode.
        layers: The layers to capture; those that take passes of examples alone are left out,
            unless it is one.
        run_forward: Runs the pass.
        examples: N, where it is known. A layer that has another number is refused, and an
            embedding of one sequence for all examples, [1, S], gives N copies of it, so that its
            gradient can be told by example.
        alone: Whether it is the pass of one example alone, N = 1, for such layers. What it does
            not call has a gradient of 0.

    Attributes:
        outputs: What `run_forward` returned.

    Raises:
        InputError: If the pass does not call one of the layers.
    """

    def __init__(
        self,
        model: nn.Module,
        layers: Sequence[Layer],
        run_forward: Callable[[], Any],
        *,
        examples: int | None = None,
        alone: bool = False,
    ) -> None:
        self._layers, self._examples, self._alone = layers, examples, alone
        self._seen = [one for one in layers if not one.bare and (alone or not one.alone)]
        self._bare = {
            one.name: model.get_parameter(one.parameters[0]) for one in layers if one.bare and alone
        }
        # By key: a layer's weight and its bias may be two layers at one site.
        sites = {site.key: site for layer in self._seen for site in layer.sites}
        self._modules = {key: model.get_submodule(site.module) for key, site in sites.items()}
        reference = next(p for p in model.parameters() if p.is_floating_point())
        self._dtype, self._device = reference.dtype, reference.device
        self._calls: dict[str, list[Call]] = {}

        def note(key: str, call: Call) -> None:
            self._calls.setdefault(key, []).append(call)

        with torch.enable_grad(), calls_noted(model, sites.values(), note, examples):
            self.outputs = run_forward()
        missing = [layer.name for layer in self._seen if not self._calls_of(layer)]
        if missing and not alone:
            raise InputError(
                f"The forward pass did not call {', '.join(missing)}, which an earlier batch did. "
                "Models whose layers depend on the data are not supported."
            )

    def inputs(self) -> dict[str, Positions]:
        """Return the layer inputs, name -> [N, groups, S, D_in]; 1 for a bare parameter."""

        def lay_out(layer: Layer, site: Site, call: Call) -> Tensor:
            _check(layer, site, call, None if self._alone else self._examples)
            values = self._recorded(call.inputs)
            return layer.inputs_of(self._modules[site.key], values, site)

        found: dict[str, Positions] = {
            layer.name: self._joined(layer, lay_out, inputs=True) for layer in self._seen
        }
        return found | {name: self._zeros(1, 1, 1) + 1 for name in self._bare}

    def pixels(self) -> dict[str, Pixels]:
        """Return the inputs of convolutions whose covariance is cheaper to take from pixels."""
        found = {}
        for layer in self._seen:
            calls = self._calls_of(layer)
            if len(calls) == 1:
                ((site, call),) = calls
                values = self._recorded(call.inputs)
                pixels = layer.pixels_of(self._modules[site.key], values, site)
                if pixels is not None:
                    found[layer.name] = pixels
        return found

    def output_gradients(self, loss: Tensor, *, last: bool) -> dict[str, Positions]:
        """Return the gradients of Σ loss at the layer outputs, name -> [N, groups, S, D_out].

        Args:
            loss: One value an example, [N].
            last: Whether no further backward pass follows; the graph is freed then.
        """
        calls = [call for key in self._calls for call in self._calls[key]]
        wanted: list[Any] = [*(call.output for call in calls), *self._bare.values()]
        found: Sequence[Tensor | None] = [None for _ in wanted]
        if wanted and loss.requires_grad:
            with without_fused_kernels():  # recomputed activations run the model again
                found = torch.autograd.grad(
                    loss.sum(), wanted, retain_graph=not last, allow_unused=True
                )
        gradients = dict(zip(map(id, calls), found[: len(calls)], strict=True))

        def lay_out(layer: Layer, site: Site, call: Call) -> Tensor:
            gradient = gradients[id(call)]
            if gradient is None:  # one of several calls does not reach the loss
                gradient = torch.zeros(call.output_shape, dtype=loss.dtype, device=loss.device)
            laid_out = self._recorded(gradient).reshape(call.output_shape)
            return layer.output_gradients_of(self._modules[site.key], laid_out, site)

        for layer in () if self._alone else self._seen:
            if all(gradients[id(call)] is None for _, call in self._calls_of(layer)):
                raise InputError(
                    f"{layer.name}: the loss does not depend on this layer's output. "
                    "Freeze its parameters (requires_grad_(False)) or use it in the loss."
                )
        joined: dict[str, Positions] = {
            layer.name: self._joined(layer, lay_out, inputs=False) for layer in self._seen
        }
        own = zip(self._bare.items(), found[len(calls) :], strict=True)
        return joined | {
            name: (torch.zeros_like(one) if gradient is None else gradient).reshape(1, 1, 1, -1)
            for (name, one), gradient in own
        }

    def tokens(self, length: int) -> dict[str, Positions]:
        """Return the token to which each position of a layer belongs, laid out as its gradients.

        Tokens are counted from 1; 0 is for positions of no one token. A call's positions are the
        tokens where just one dimension of its output, the example's aside, has their number and
        is the same throughout every position: so are several calls, heads apart, and one sequence
        that serves all examples.

        Args:
            length: T, the tokens of the sequence.
        """
        numbers = torch.arange(1, length + 1, dtype=torch.float64, device=self._device)

        def lay_out(layer: Layer, site: Site, call: Call) -> Tensor:
            shape = call.output_shape

            def laid_out(values: Tensor) -> Tensor:
                spread = values.expand(shape)
                return layer.output_gradients_of(self._modules[site.key], spread, site)

            found = [
                laid_out(numbers.reshape(-1, *(1 for _ in shape[dimension + 1 :])))
                for dimension, size in enumerate(shape)
                if size == length and (layer.alone or dimension != site.example_dimension)
            ]
            found = [one for one in found if bool((one == one[:, :1, :, :1]).all())]
            return found[0] if len(found) == 1 else laid_out(numbers.new_zeros(()))

        return {layer.name: self._joined(layer, lay_out, inputs=False) for layer in self._seen} | {
            name: self._zeros(1, 1, 1) for name in self._bare
        }

    def gradients(
        self, inputs: Mapping[str, Positions], output_gradients: Mapping[str, Positions]
    ) -> dict[str, LayerGradient]:
        """Join layer inputs and output gradients to per-example gradients."""
        return {
            layer.name: per_example_gradient(
                inputs[layer.name], output_gradients[layer.name], width=layer.inputs
            )
            for layer in self._layers
        }

    def _recorded(self, values: Tensor) -> Tensor:
        """Return what a pass left in the model's precision; passes under autocast leave less."""
        return values.to(self._dtype) if values.is_floating_point() else values

    def _calls_of(self, layer: Layer) -> list[tuple[Site, Call]]:
        return [(site, call) for site in layer.sites for call in self._calls.get(site.key, ())]

    def _joined(
        self, layer: Layer, lay_out: Callable[[Layer, Site, Call], Tensor], *, inputs: bool
    ) -> Positions:
        """Lay out a layer's calls, and join them along their positions."""
        parts: list[tuple[int, Tensor]] = []
        indexed: list[Tensor] = []
        for site, call in self._calls_of(layer):
            values = lay_out(layer, site, call)
            if site.kind.indexed:
                indexed.append(values)
                continue
            first, stop = call.groups or (0, values.shape[1])
            # Several projections of one input: it is recorded once.
            values = values.expand(-1, stop - first, -1, -1)
            parts.append((site.first_group + first, values))
        # Where an embedding shares the weight one of the two may have no call; of an example alone
        # there may be none at all.
        examples = len(indexed[0]) if indexed else len(parts[0][1]) if parts else 1
        width = layer.inputs if inputs else layer.outputs
        linear = embedding = self._zeros(layer.groups, 0, width, examples=examples)
        if parts:
            linear = _join_groups(parts, layer.groups)
        if indexed:
            embedding = torch.cat(indexed, dim=1 if inputs else 2)
        elif inputs:
            embedding = self._zeros(0, examples=examples).long()
        elif layer.partly_indexed:
            embedding = self._zeros(1, 0, layer.inputs, examples=examples)
        if layer.partly_indexed:
            return TiedPositions(linear, embedding)
        return embedding if layer.indexed else linear

    def _zeros(self, *shape: int, examples: int = 1) -> Tensor:
        return torch.zeros(examples, *shape, dtype=self._dtype, device=self._device)


def _join_groups(parts: Sequence[tuple[int, Tensor]], groups: int) -> Tensor:
    """Concatenate calls along their positions; a position of padding is 0 and adds nothing.

    Args:
        parts: The first group of each call and its values, [N, groups of the call, S, D].
        groups: Of the layer; [N, groups, S, D] is returned, S that of the longest group.
    """
    if all(values.shape[1] == groups for _, values in parts):
        return parts[0][1] if len(parts) == 1 else torch.cat([v for _, v in parts], dim=2)
    by_group = [
        torch.cat(
            [v[:, group - first] for first, v in parts if first <= group < first + v.shape[1]],
            dim=1,
        )
        for group in range(groups)
    ]
    longest = max(values.shape[1] for values in by_group)
    return torch.stack([F.pad(v, (0, 0, 0, longest - v.shape[1])) for v in by_group], dim=1)


def _check(layer: Layer, site: Site, call: Call, examples: int | None) -> None:
    shape = call.inputs.shape
    dimension = site.example_dimension
    if examples is not None and shape[dimension] != examples:
        raise InputError(
            f"{layer.name}: its input has shape {list(shape)} for a batch of "
            f"{examples} examples; dimension {dimension} must be the example. Put the "
            "batch first in the model, or freeze this layer."
        )
    if call.inputs._version != call.version:
        raise InputError(
            f"{layer.name}: its input was changed in place after the layer read it, "
            "so the gradient cannot be rebuilt. Replace the in-place operation."
        )


def per_example_loss(loss: Tensor, *, name: str, examples: int) -> Tensor:
    """Return `loss` if it is one value an example, [B]; say what to change otherwise."""
    if loss.shape != (examples,):
        raise InputError(
            f"{name} returned shape {list(loss.shape)} for a batch of {examples} examples; "
            f"expected [{examples}], one value an example. "
            "Use reduction='none' and do not average over the batch."
        )
    return loss
