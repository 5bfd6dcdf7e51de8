"""What of a model is attributed: its layers, without what a person leaves out by name."""

from collections.abc import Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from functools import partial
from typing import Any

import torch
from torch import nn

from sourcetrace.core.gradients.check import hidden_uses
from sourcetrace.core.layers.discovery import Coverage, find_layers
from sourcetrace.core.model.examples import Examples, spread
from sourcetrace.core.training.segments import Segment, settings_of
from sourcetrace.errors import InputError
from sourcetrace.formats import format_names
from sourcetrace.parameters import AttributionParameters, LayerParameters
from sourcetrace.tasks import Task

_FIRST, _SPREAD = 3, 7
"""Training examples of the passes that show the layers; not two, as in the check of gradients."""


def coverage_of(
    task: Task,
    model: nn.Module,
    training: Examples,
    device: torch.device,
    segments: Sequence[Segment],
    *,
    attribution: AttributionParameters,
) -> Coverage:
    """Find the attributed layers, by forward passes over a few training examples.

    Args:
        task: The task.
        model: The model; what the optimiser was not given is frozen in it.
        training: The training examples.
        device: Where the model is.
        segments: Whose optimiser settings the parameters have; a layer has one setting.
        attribution: Which parameters are left out, and how many may be bare.
    """

    def run(few: torch.Tensor) -> Any:
        # Anew: the task may have taken another batch apart.
        return task.forward(model, training.batch(few.tolist(), device))

    numbers = torch.arange(len(training))
    # What some examples are by chance, others are not.
    few = numbers[:_FIRST], spread(numbers, _SPREAD)
    (run_forward, examples), *further = [(partial(run, one), len(one)) for one in few]
    trainable = {name for name, p in model.named_parameters() if p.requires_grad}
    by_name = left_out_by_name(model, attribution.layers) & trainable
    left_out = dict.fromkeys(by_name, "left out by attribution.layers")
    others = trainable.difference(*(segment.settings for segment in segments))
    left_out |= dict.fromkeys(others, "not given to the optimiser")
    for name in left_out:
        model.get_parameter(name).requires_grad_(False)
    find = partial(
        find_layers,
        model.eval(),
        run_forward,
        settings_of(segments),
        examples=examples,
        further=further,
        bare=attribution.bare_parameters,
    )
    found = find()
    # Without passes of examples alone the check of gradients refuses such a use.
    if attribution.bare_parameters is not None:
        hidden = hidden_uses(model, found, run_forward, examples=examples)
        found = find(hidden=hidden) if hidden else found
    return replace(
        found,
        unattributed=tuple(
            replace(one, reason=left_out.get(one.name, one.reason)) for one in found.unattributed
        ),
    )


def left_out_by_name(model: nn.Module, layers: LayerParameters) -> set[str]:
    """Return the parameters that the patterns leave out, all names of each.

    A pattern is a parameter's name or that of a module that holds it. A parameter that modules
    share is left out by any of its names.

    Raises:
        InputError: If a pattern matches no parameter.
    """
    names: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    every = [name for group in names.values() for name in group]
    for kind in ("include", "exclude"):
        for pattern in getattr(layers, kind):
            if not any(_matches(name, pattern) for name in every):
                raise InputError(
                    f"attribution.layers.{kind}: {pattern!r} matches none of the model's "
                    f"parameters ({format_names(every)}). Correct the pattern: a parameter's name "
                    "or a module's, in which * stands for anything."
                )

    def any_of(group: list[str], patterns: tuple[str, ...]) -> bool:
        return any(_matches(name, pattern) for name in group for pattern in patterns)

    return {
        name
        for group in names.values()
        if any_of(group, layers.exclude) or not any_of(group, layers.include)
        for name in group
    }


def _matches(name: str, pattern: str) -> bool:
    return fnmatchcase(name, pattern) or fnmatchcase(name, f"{pattern}.*")
