"""Whether an example's losses and gradients are its own, whatever else is in its batch."""

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from sourcetrace.core.gradients.capture import per_example_loss
from sourcetrace.core.layers.fused_kernels import without_fused_kernels
from sourcetrace.core.machine.halving import is_out_of_memory
from sourcetrace.core.machine.nested import map_tensors, to_dtype
from sourcetrace.core.model.examples import Examples
from sourcetrace.core.model.precision import products_in
from sourcetrace.errors import InputError
from sourcetrace.formats import format_names
from sourcetrace.tasks import Task
from sourcetrace.tasks.calls import call

_LOOKED_AT = 32
"""Examples, evenly spread, among which the shortest and the longest are looked for."""

_COMPARED = 8
"""Examples that are evaluated alone and together."""

_TOLERANCE = 1e-3
"""Relative; what other examples change is far more, rounding far less where nothing cancels."""

_TOLERANCE_UNCONFIRMED = 0.02
"""Where the task does not run in float64, which tells rounding from the rest."""


def refuse_coupled(
    task: Task,
    model: nn.Module,
    examples: Examples,
    *,
    differentiated: str,
    device: torch.device,
) -> None:
    """Evaluate a few examples alone and together, as the audit does, and compare.

    Args:
        task: The task.
        model: The model, in evaluation mode.
        examples: Of one side.
        differentiated: The loss whose gradients are compared too.
        device: Of the model.

    Raises:
        InputError: If an example's loss, measurement or gradient is not the same.
    """
    last = len(examples) - 1
    few = examples.subset(
        sorted({i * last // (_LOOKED_AT - 1) for i in range(_LOOKED_AT)} if last else {0})
    )
    sizes = [_size(task, item) for item in few.items]
    by_size = sorted(range(len(few)), key=sizes.__getitem__)
    between = [by_size[i * len(few) // _COMPARED] for i in range(1, _COMPARED)]
    few = few.subset(list(dict.fromkeys([by_size[0], by_size[-1], *between])))
    trial = _Trial(task, few, differentiated, device)
    try:
        trial.run(model)
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        replace(trial, examples=few.subset(range(min(2, len(few))))).run(model)


@dataclass(frozen=True)
class _Trial:
    """Examples that are evaluated alone and together; of the first two gradients, too."""

    task: Task
    examples: Examples
    differentiated: str
    device: torch.device

    def run(self, model: nn.Module) -> None:
        """Refuse what differs, and still does in float64: there, rounding explains nothing."""
        try:
            self.compare(model, _TOLERANCE)
        except InputError:
            try:
                exact = copy.deepcopy(model).double()
                self.evaluate(exact, range(len(self.examples)))
            except Exception:  # the user's code need not know float64
                self.compare(model, _TOLERANCE_UNCONFIRMED)
            else:
                self.compare(exact, _TOLERANCE)

    def compare(self, model: nn.Module, tolerance: float) -> None:
        """Refuse what differs between examples alone and together."""
        count = len(self.examples)
        single = [self.evaluate(model, [i]) for i in range(count)]
        # A loss that is NaN alone is refused by its name when the audit comes to it.
        index = [i for i in range(count) if bool(single[i][self.differentiated].isfinite())]
        if len(index) < 2:  # noqa: PLR2004
            return
        alone = {name: torch.cat([single[i][name] for i in index]) for name in single[index[0]]}
        together = self.evaluate(model, index)
        rounding = torch.finfo(_precision(model)).eps ** 0.5
        found = _difference(alone, together, tolerance, rounding)
        if found is None:
            return
        for _ in range(3):  # what is drawn may come out the same once
            again = self.evaluate(model, index)
            if drawn := _difference(together, again, tolerance, rounding):
                name, place = drawn
                raise InputError(
                    f"{name} of example {self.examples.ids[index[place]]!r} is "
                    f"{together[name][place]:.6g} in one pass and {again[name][place]:.6g} in the "
                    "next over the same batch: collate, forward or the loss draws at random. Let "
                    "them draw nothing in evaluation mode (F.dropout(…, training=self.training)), "
                    "and take random masks and noise out of collate."
                )
        name, place = found
        ids = [self.examples.ids[i] for i in index]
        others = [one for one in ids if one != ids[place]]
        raise InputError(
            f"{name} of example {ids[place]!r} is {alone[name][place]:.6g} alone and "
            f"{together[name][place]:.6g} in a batch with {format_names(others)}: it depends on "
            "the other examples, so scores would depend on the audit's batches. Let every example "
            "count by itself: no in-batch negatives, running statistics in place of "
            "F.batch_norm(training=True), weights that are not normalised over the batch, and "
            "padding masked in the model and the loss."
        )

    def evaluate(self, model: nn.Module, index: Sequence[int]) -> dict[str, Tensor]:
        """Return losses and norms of gradients of a batch, name -> [N], float64 on the CPU.

        Gradients are those of the first two examples, where `index` has them; NaN elsewhere.
        """
        one = len(index) == 1
        on = f"example {self.examples.ids[index[0]]!r} alone" if one else "several examples"
        items = [self.examples.items[i] for i in index]
        batch = map_tensors(
            call(self.task, "collate", on, items), lambda tensor: tensor.to(self.device)
        )
        if _precision(model) == torch.float64:
            batch = to_dtype(batch, torch.float64)
        values = {}
        with products_in("float32", self.device), without_fused_kernels():
            outputs = call(self.task, "forward", on, model, batch)
            for name in ("train_loss", "measurement"):
                # What is not differentiated keeps nothing for a backward pass.
                with torch.set_grad_enabled(name == self.differentiated):
                    loss = call(self.task, name, on, outputs, batch)
                per_example_loss(loss, name=name, examples=len(index))
                values[name] = loss.detach().double().cpu() + 0.0  # -0 reads ill
                if name == self.differentiated and loss.requires_grad:
                    values[f"the norm of {name}'s gradient"] = torch.tensor(
                        [
                            _gradient_norm(model, loss[place]) if i < 2 else torch.nan  # noqa: PLR2004
                            for place, i in enumerate(index)
                        ],
                        dtype=torch.float64,
                    )
        return values


def _size(task: Task, item: Any) -> int:
    """Return how many numbers the batch of a single example holds."""
    sizes: list[int] = []

    def count(tensor: Tensor) -> Tensor:
        sizes.append(tensor.numel())
        return tensor

    map_tensors(call(task, "collate", "a single example", [item]), count)
    return sum(sizes)


def _precision(model: nn.Module) -> torch.dtype:
    return next(p.dtype for p in model.parameters() if p.is_floating_point())


def _gradient_norm(model: nn.Module, loss: Tensor) -> float:
    weights = [p for p in model.parameters() if p.requires_grad]
    found = torch.autograd.grad(loss, weights, retain_graph=True, allow_unused=True)
    norms = [torch.linalg.vector_norm(g, dtype=torch.float64) for g in found if g is not None]
    return math.hypot(*map(float, norms))


def _difference(
    one: Mapping[str, Tensor], other: Mapping[str, Tensor], tolerance: float, rounding: float
) -> tuple[str, int] | None:
    """Return the first name with a difference and its largest's place; None where all agree.

    Args:
        one: Name -> [N].
        other: As many.
        tolerance: Of a value itself.
        rounding: Of the largest value: what is small beside others may be what cancelled.
    """
    for name, values in one.items():
        known = values.isfinite()
        if not bool(known.any()):
            continue
        allowed = tolerance * torch.maximum(values.abs(), other[name].abs())
        allowed += rounding * values[known].abs().max()
        excess = (values - other[name]).abs() / allowed
        # A value that is NaN in one batch alone differs; 0 / 0 does not.
        excess = torch.where(known & ~other[name].isfinite(), torch.inf, excess.nan_to_num(0.0))
        if float(excess.max()) > 1:
            return name, int(excess.argmax())
    return None
