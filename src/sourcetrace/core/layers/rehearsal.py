"""One forward pass that shows how a model calls its modules."""

from collections.abc import Callable, Iterable, Mapping, Sequence
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


class Rehearsal:
    """What one forward pass shows of the calls of every module.

    Attributes:
        shapes: Module name -> the shape of its first argument, a call each.
        output_shapes: Module name -> the shape of its output, a call each.
        tried: Name of a module of no known kind -> the kind that its first call shows, if any.
        without_gradient: Modules with trainable parameters whose output has no gradient.
        sequences: Name of an attention or recurrent module -> how many sequences it saw, a call
            each; 0 for a single one without a batch.
        sequence_first: Numbers of examples that such modules with the sequence first saw.
    """

    def __init__(self, model: nn.Module, run_forward: Callable[[], object]) -> None:
        self.shapes: dict[str, list[tuple[int, ...]]] = {}
        self.output_shapes: dict[str, list[tuple[int, ...]]] = {}
        self.tried: dict[str, LayerType | None] = {}
        self.without_gradient: list[str] = []
        self.sequences: dict[str, list[int]] = {}
        self.sequence_first: set[int] = set()
        names = {module: name for name, module in model.named_modules()}

        def note(
            module: nn.Module, arguments: tuple[Any, ...], keywords: Mapping[str, Any], output: Any
        ) -> None:
            values = next(iter((*arguments, *keywords.values())), None)
            shape = tuple(values.shape) if isinstance(values, Tensor) else ()
            self.shapes.setdefault(names[module], []).append(shape)
            shape_out = tuple(output.shape) if isinstance(output, Tensor) else ()
            self.output_shapes.setdefault(names[module], []).append(shape_out)
            if names[module] not in self.tried and kind_of(module) is None:
                called = (module, arguments, keywords, output)
                kind = elementwise_kind(*called) or parent_call_kind(*called)
                self.tried[names[module]] = kind
            result = output[0] if isinstance(output, tuple) and output else output
            trains = any(p.requires_grad for p in module.parameters(recurse=False))
            if trains and isinstance(result, Tensor) and not result.requires_grad:
                self.without_gradient.append(names[module])
            if isinstance(module, _OF_SEQUENCES):
                self.sequences.setdefault(names[module], []).append(_sequences(module, values))
                if not getattr(module, "batch_first", True):
                    self.sequence_first.update(shape[1:2])

        handles = [module.register_forward_hook(note, with_kwargs=True) for module in names]
        try:
            # With gradients, so that layers which run without are found.
            with torch.enable_grad(), without_fused_kernels():
                self._outputs = run_forward()
        finally:
            for handle in handles:
                handle.remove()

    def reached(self, parameters: Sequence[nn.Parameter]) -> list[bool]:
        """Return which of some parameters the outputs depend on."""
        outputs: list[Tensor] = []

        def note(tensor: Tensor) -> Tensor:
            outputs.append(tensor)
            return tensor

        map_tensors(self._outputs, note)
        # abs: a complex sum has no gradient.
        live = [one.abs().sum() for one in outputs if one.requires_grad]
        if not parameters or not live:  # outputs of the task's own make may hold anything
            return [not outputs for _ in parameters]
        with without_fused_kernels():  # recomputed activations run the model again
            found = torch.autograd.grad(live, parameters, retain_graph=True, allow_unused=True)
        return [gradient is not None for gradient in found]

    def example_dimension(self, site: Site, module: nn.Module, examples: int | None) -> int | str:
        """Return which dimension of a site's inputs counts examples, or why none does.

        Attention with the sequence first lays out everything around it as [S, N, D] too; inside,
        it and recurrent modules do so in any case.
        An embedding of positions, [1, S], serves all examples: that dimension is 1 then.

        Raises:
            InputError: If N = S, so that the two cannot be told apart.
        """
        if site.part:
            return self._why_no_batch(site.module, examples) or 1
        known = self.sequence_first if examples is None else {examples}
        side, seen = ("input", self.shapes)
        if site.kind.call is not None:
            side, seen = ("output", self.output_shapes)
        shapes = seen.get(site.module, [])
        if len(known) != 1 or not shapes:
            return 0
        (count,) = known
        found = {self._dimension(site, module, shape, count) for shape in shapes}
        if len(found) == 1 and (dimension := found.pop()) is not None:
            return dimension
        return (
            f"its {side} has shape {list(shapes[0])} for a batch of {count} examples: none of its "
            "dimensions counts examples"
        )

    def _why_no_batch(self, module: str, examples: int | None) -> str:
        seen = set(self.sequences.get(module, ()))
        if 0 in seen:
            return "called with a single sequence instead of a batch of them"
        if examples is not None and not seen <= {examples}:
            return f"called with {min(seen)} sequences for a batch of {examples} examples"
        return ""

    def _dimension(
        self, site: Site, module: nn.Module, shape: tuple[int, ...], count: int
    ) -> int | None:
        features = site.kind.feature_dimensions
        free = 1 if features is None else min(2, len(shape) - features(module))
        fitting = [dimension for dimension in range(free) if shape[dimension] == count]
        if len(fitting) > 1 and self.sequence_first:
            raise InputError(
                f"{site.module}: its input has shape {list(shape)}, and attention or a recurrent "
                "layer in this model has the sequence first, so that examples and positions cannot "
                "be told apart. Try examples whose length is not the number of examples in this "
                "batch."
            )
        if not fitting and site.kind.indexed:
            fitting = [d for d in range(free) if len(shape) > 1 and shape[d] == 1]
        return fitting[0] if fitting else None


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
