"""What an optimiser divided the gradients by, of all parameters of a checkpoint."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from sourcetrace.checkpoints.nested import ODD
from sourcetrace.checkpoints.prefixes import without_prefix
from sourcetrace.checkpoints.training.denominators import NotFiniteError, ParameterState
from sourcetrace.checkpoints.training.optimizer_recognition import OptimizerState
from sourcetrace.checkpoints.training.optimizers import KnownOptimizer
from sourcetrace.errors import InputError
from sourcetrace.formats import shorten


def denominators_of(
    file: Path,
    state: Mapping[str, Any],
    names: Mapping[int, Sequence[str]],
    weights: Callable[[], Mapping[str, Tensor]],
) -> dict[str, Tensor]:
    """Return what the optimiser divided each parameter's gradient by, `√v̂ + ε` for Adam.

    It is infinite where no gradient ever came.

    Args:
        file: For errors.
        state: Of the optimiser.
        names: Place in the state -> the parameter's names.
        weights: Gives the checkpoint's weights, which some optimisers scale their steps by.

    Raises:
        InputError: If a second moment is missing, negative or not finite.
    """
    found = {}
    whole = OptimizerState.of(file, state)
    for group in whole.groups:
        for place in group["params"]:
            if place in names and place in whole.entries:
                own = names[place]
                one = ParameterState(whole.entries[place], group, partial(_size, weights, own))
                found.update(dict.fromkeys(own, _denominator(file, whole.known, own[0], one)))
    return found


def _denominator(file: Path, known: KnownOptimizer, name: str, one: ParameterState) -> Tensor:
    assert known.denominator is not None  # noqa: S101, of `ADAPTIVE`
    try:
        found = known.denominator(one)
        if not bool((found > 0).all()):
            raise ValueError("step")
        return found
    except NotFiniteError as error:
        raise InputError(
            f"{file.name}: {name}: {known.name}'s second moments are negative or not finite: "
            "training had diverged. Remove this checkpoint and the ones after it."
        ) from error
    except ODD as error:
        raise InputError(
            f"{file.name}: {name}: the optimiser's state lacks {' or '.join(known.moments)}, step, "
            f"or what belongs to them ({shorten(repr(error))}). Save optimizer.state_dict() as it "
            "is."
        ) from error


def _size(weights: Callable[[], Mapping[str, Tensor]], names: Sequence[str]) -> float:
    """Return the root mean square of a parameter's weights."""
    held = weights()
    plain = dict(zip(without_prefix(list(held), names), held.values(), strict=True))
    weight = next(plain[name] for name in names if name in plain)
    return float(weight.float().square().mean().sqrt())
