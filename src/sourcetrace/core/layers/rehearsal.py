"""Forward passes that show how a model calls its modules."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from sourcetrace.core.layers.fused_kernels import without_fused_kernels
from sourcetrace.core.layers.kinds.elementwise import elementwise_kind
from sourcetrace.core.layers.kinds.parent_call import parent_call_kind
from sourcetrace.core.layers.kinds.registry import kind_of
from sourcetrace.core.layers.kinds.types import LayerType
from sourcetrace.core.layers.layer import Site
from sourcetrace.core.machine.nested import map_tensors
from sourcetrace.errors import InputError

_OF_SEQUENCES = (nn.MultiheadAttention, nn.RNNBase, nn.RNNCellBase)


@dataclass(frozen=True)
class _Seen:
    """A call of a module.

    Attributes:
        run: Number of the pass.
        examples: How many that had; None where it is not known.
        shape, output_shape: Of the first argument and the output, () if that is no tensor.
        sequences: How many sequences an attention or recurrent module was given; 0 for a single
            one without a batch.
    """

    run: int
    examples: int | None
    shape: tuple[int, ...]
    output_shape: tuple[int, ...]
    sequences: int


class Rehearsal:
    """What forward passes show of the calls of every module.

    Args:
        model: The model, in evaluation mode.
        runs: What runs a pass, and how many examples it has, where that is known.

    Attributes:
        calls: Module name -> its calls.
        tried: Name of a module of no known kind -> the kind that its first call shows, if any.
        without_gradient: Modules with trainable parameters whose output has no gradient.
    """

    def __init__(
        self, model: nn.Module, runs: Sequence[tuple[Callable[[], object], int | None]]
    ) -> None:
        self.calls: dict[str, list[_Seen]] = {}
        self.tried: dict[str, LayerType | None] = {}
        self.without_gradient: list[str] = []
        self._outputs: list[object] = []
        # Numbers of examples that attention and recurrent modules with the sequence first saw.
        self._sequence_first: set[int] = set()
        names = {module: name for name, module in model.named_modules()}

        def note(
            module: nn.Module, arguments: tuple[Any, ...], keywords: Mapping[str, Any], output: Any
        ) -> None:
            values = next(iter((*arguments, *keywords.values())), None)
            if names[module] not in self.tried and kind_of(module) is None:
                called = (module, arguments, keywords, output)
                kind = elementwise_kind(*called) or parent_call_kind(*called)
                self.tried[names[module]] = kind
            of_sequences = isinstance(module, _OF_SEQUENCES)
            sequences = _sequences(module, values) if of_sequences else 0
            run = len(self._outputs)
            shape = _shape(values)
            seen = _Seen(run, runs[run][1], shape, _shape(output), sequences)
            self.calls.setdefault(names[module], []).append(seen)
            result = output[0] if isinstance(output, tuple) and output else output
            trains = any(p.requires_grad for p in module.parameters(recurse=False))
            if trains and isinstance(result, Tensor) and not result.requires_grad:
                self.without_gradient.append(names[module])
            if of_sequences and not getattr(module, "batch_first", True):
                self._sequence_first.update(shape[1:2])

        handles = [module.register_forward_hook(note, with_kwargs=True) for module in names]
        try:
            # With gradients, so that layers which run without are found.
            with torch.enable_grad(), without_fused_kernels():
                for run, _ in runs:
                    self._outputs.append(run())
        finally:
            for handle in handles:
                handle.remove()

    def reached(self, parameters: Sequence[nn.Parameter]) -> list[bool]:
        """Return which of some parameters the outputs depend on."""
        outputs: list[Tensor] = []

        def note(tensor: Tensor) -> Tensor:
            outputs.append(tensor)
            return tensor

        for one in self._outputs:
            map_tensors(one, note)
        # abs: a complex sum has no gradient.
        live = [one.abs().sum() for one in outputs if one.requires_grad]
        if not parameters or not live:  # outputs of the task's own make may hold anything
            return [not outputs for _ in parameters]
        with without_fused_kernels():  # recomputed activations run the model again
            found = torch.autograd.grad(live, parameters, retain_graph=True, allow_unused=True)
        return [gradient is not None for gradient in found]

    def example_dimension(self, site: Site, module: nn.Module) -> int | str:
        """Return which dimension of a site's inputs counts examples, or why none does.

        Attention with the sequence first lays out everything around it as [S, N, D] too; inside,
        it and recurrent modules do so in any case.
        An embedding of positions, [1, S], serves all examples: that dimension is 1 then.

        Raises:
            InputError: If N = S in every pass, so that the two cannot be told apart.
        """
        calls = self.calls.get(site.module, [])
        runs = {call.run for call in calls}
        if calls and len(runs) < len(self._outputs):
            return "called in one forward pass and not in another"
        if site.part:
            return next(filter(None, map(_why_no_batch, calls)), 1)
        known = self._sequence_first if calls and calls[0].examples is None else {0}
        if len(known) != 1 or not calls:
            return 0
        (count,) = known
        shapes = [_counted(site, call) for call in calls]
        found = [
            _dimensions(site, module, shape, call.examples or count)
            for shape, call in zip(shapes, calls, strict=True)
        ]
        fitting = set.intersection(*found)
        if not fitting:
            place = found.index(min(found, key=len))
            side = "input" if site.kind.call is None else "output"
            return (
                f"its {side} has shape {list(shapes[place])} for a batch of "
                f"{calls[place].examples or count} examples: none of its dimensions counts examples"
            )
        if len(fitting) > 1 and self._sequence_first:
            raise InputError(
                f"{site.module}: its input has shape {list(calls[0].shape)}, and attention or a "
                "recurrent layer in this model has the sequence first, so that examples and "
                "positions cannot be told apart. Try examples whose length is not the number of "
                "examples in this batch."
            )
        return min(fitting)

    def shows_alone(self, site: Site, module: nn.Module) -> bool:
        """Return whether the pass of one example alone shows what met a site.

        So it does where several of what the module takes come in one dimension, not a single one.
        """
        if site.part:
            return True
        features = site.kind.feature_dimensions
        shapes = [_counted(site, call) for call in self.calls.get(site.module, [])]
        if features is not None:
            return all(len(shape) > features(module) for shape in shapes)
        if site.kind.call is not None:
            return False
        # A convolution's input has as many dimensions as its weight, [k, C, H, W].
        weight = getattr(module, site.kind.names[0], None)
        return weight is not None and all(len(shape) == weight.ndim for shape in shapes)


def _shape(value: Any) -> tuple[int, ...]:
    return tuple(value.shape) if isinstance(value, Tensor) else ()


def _counted(site: Site, call: _Seen) -> tuple[int, ...]:
    """Return the shape in which examples are looked for."""
    return call.shape if site.kind.call is None else call.output_shape


def _why_no_batch(call: _Seen) -> str:
    if call.sequences == 0:
        return "called with a single sequence instead of a batch of them"
    if call.examples not in (None, call.sequences):
        return f"called with {call.sequences} sequences for a batch of {call.examples} examples"
    return ""


def _dimensions(site: Site, module: nn.Module, shape: tuple[int, ...], count: int) -> set[int]:
    """Return the dimensions of an input that may count examples."""
    features = site.kind.feature_dimensions
    free = 1 if features is None else min(2, len(shape) - features(module))
    fitting = {dimension for dimension in range(free) if shape[dimension] == count}
    if not fitting and site.kind.indexed:
        fitting = {d for d in range(free) if len(shape) > 1 and shape[d] == 1}
    return fitting


def _sequences(module: nn.Module, values: Any) -> int:
    """Return how many sequences a module was given; 0 for a single one without a batch."""
    if isinstance(values, PackedSequence):
        return int(values.batch_sizes[0])
    batched = 2 if isinstance(module, nn.RNNCellBase) else 3
    if values.ndim < batched:
        return 0
    return int(values.shape[0 if getattr(module, "batch_first", True) else 1])


def refuse_compiled(modules: Iterable[tuple[str, nn.Module]]) -> None:
    """Refuse a model with compiled parts.

    Raises:
        InputError: If a module is compiled; what it calls inside cannot be seen.
    """
    for name, module in modules:
        wrapped = type(module).__name__ == "OptimizedModule"
        if wrapped or module._compiled_call_impl is not None:
            raise InputError(
                f"{name or 'The model'} is compiled by torch.compile, which hides the layers "
                "inside. Return the plain module from build_model(); compile it in your "
                "training code only, and save the plain module's state_dict()."
            )
