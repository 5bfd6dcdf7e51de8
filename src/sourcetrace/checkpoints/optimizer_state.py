"""How a checkpoint was trained, from the state dict of its optimiser."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from inspect import signature
from itertools import islice
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from sourcetrace.checkpoints.logged_rates import LoggedRates
from sourcetrace.checkpoints.scheduler_state import SavedScheduler
from sourcetrace.core.training.optimizer_settings import ADAPTIVE, OptimizerName, ParameterGroup
from sourcetrace.errors import InputError

_SUPPORTED = (
    "Supported are torch.optim.SGD with heavy-ball or Nesterov momentum, dampening and weight "
    "decay, and torch.optim.Adam and AdamW, with or without amsgrad."
)
_SGD = {"lr", "momentum", "dampening", "nesterov", "weight_decay"}
_ADAM = {"lr", "betas", "eps", "weight_decay", "amsgrad"}
_OF_SCHEDULERS = {"initial_lr", "max_lr", "min_lr", "base_momentum", "max_momentum", "swa_lr"}
# Not an optimiser's `defaults`: making one loads all of torch's compiler.
_OWN = {
    "SGD": {*signature(torch.optim.SGD).parameters, "param_names"},
    "AdamW": {*signature(torch.optim.AdamW).parameters, "param_names", "decoupled_weight_decay"},
}
"""All settings that torch itself writes: other optimisers (LARS, SAM, SGDW) have these and more."""
_STATE_KEYS = ("exp_avg_sq", "momentum_buffer")


@dataclass(frozen=True)
class _StoredGroup:
    """A parameter group as it was saved.

    Attributes:
        settings: Its settings, without names.
        places: Numbers of its parameters in the optimiser's state.
        names: Their names in the model, if the file says; None means every parameter.
    """

    settings: ParameterGroup
    places: tuple[int, ...]
    names: tuple[str, ...] | None


@dataclass(frozen=True)
class TrainingState:
    """What the method needs of the training.

    Attributes:
        step: Optimiser steps taken, over the whole training.
        optimizer: Its name.
        groups: The parameter groups, at least one.
        stage: Stage of training, if the file says.
        shapes: Place in the optimiser's state -> shape of the parameter, where it has a state.
        learning_rates: Of the steps up to this one, [steps] or [steps, groups], if saved.
        scheduler: A learning-rate scheduler, if saved.
        logged: Learning rates that the training logged, if it did.
        sources: Name in `schemas.CheckpointManifest` -> where the value comes from, in words; what
            is assumed begins with "assumed: ".
    """

    step: int
    optimizer: OptimizerName
    groups: tuple[_StoredGroup, ...]
    stage: str | None
    shapes: Mapping[int, tuple[int, ...]]
    learning_rates: Tensor | None
    scheduler: SavedScheduler | None
    logged: LoggedRates | None = None
    sources: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(
        cls, file: Path, content: Mapping[str, Any], sources: Mapping[str, str] | None = None
    ) -> Self:
        """Derive the training state from a checkpoint's mapping.

        Args:
            file: For errors.
            content: The mapping.
            sources: Where values come from, if not from the mapping's usual keys.

        Raises:
            InputError: If the optimiser is not a supported one, or its state is not whole.
        """
        state = content["optimizer_state_dict"]
        groups = _parameter_groups(file, state)
        optimizer = _optimizer_name(file, groups, content.get("optimizer"))
        step = content["step"]
        if isinstance(step, bool) or not isinstance(step, int) or step < 0:
            raise InputError(
                f"{file.name}: step is {step!r}; expected the number of optimiser steps so far, a "
                "whole number of 0 or more."
            )
        shapes = _state_shapes(state)
        lost = content.get("second_moments") == "none"
        if optimizer in ADAPTIVE and step and not (shapes or lost):
            raise InputError(
                f"{file.name}: the {optimizer} state has no second moments (exp_avg_sq). Save "
                "optimizer.state_dict() as it is, with its 'state'."
            )
        stage = content.get("stage")
        return cls(
            step=step,
            optimizer=optimizer,
            groups=tuple(
                _stored(file, group, names)
                for group, names in zip(groups, _names(file, groups, content), strict=True)
            ),
            stage=None if stage is None else str(stage),
            shapes=shapes,
            learning_rates=_recorded_rates(file.name, content.get("learning_rates")),
            scheduler=_saved_scheduler(content, groups),
            sources={
                name: (sources or {}).get(name, source)
                for name, source in _sources(optimizer, content).items()
            },
        )

    @staticmethod
    def denominators(
        file: Path, state: Mapping[str, Any], names: Mapping[int, Sequence[str]]
    ) -> dict[str, Tensor]:
        """Return what Adam divided each parameter's gradient by, √v̂ + ε.

        It is infinite where no gradient ever came.

        Args:
            file: For errors.
            state: Of the optimiser.
            names: Place in the state -> the parameter's names.

        Raises:
            InputError: If a second moment is missing, negative or not finite.
        """
        found = {}
        for group in _parameter_groups(file, state):
            key = "max_exp_avg_sq" if group["amsgrad"] else "exp_avg_sq"
            for place in group["params"]:
                entry = (state.get("state") or {}).get(place)
                if place not in names or entry is None:
                    continue
                where = f"{file.name}: {names[place][0]}"
                if key not in entry or "step" not in entry:
                    raise InputError(
                        f"{where}: the optimiser's state lacks {key} or step. Save "
                        "optimizer.state_dict() as it is."
                    )
                moment = entry[key].float() if entry[key].element_size() < 4 else entry[key]  # noqa: PLR2004
                if not bool((moment.isfinite() & (moment >= 0)).all()):
                    raise InputError(
                        f"{where}: Adam's second moments are negative or not finite: training had "
                        "diverged. Remove this checkpoint and the ones after it."
                    )
                corrected = moment / (1 - float(group["betas"][1]) ** float(entry["step"]))
                value = (corrected.sqrt() + float(group["eps"])).masked_fill(moment == 0, torch.inf)
                found.update(dict.fromkeys(names[place], value))
        return found


def _sources(optimizer: OptimizerName, content: Mapping[str, Any]) -> dict[str, str]:
    settings = ("optimizer", "learning_rate", "momentum", "weight_decay")
    moments = ("second_moments",) if optimizer in ADAPTIVE else ()
    found = {"step": "step"} | dict.fromkeys(settings + moments, "optimizer_state_dict")
    if content.get("stage") is not None:
        found["stage"] = "stage"
    if "decoupled_weight_decay" not in content["optimizer_state_dict"]["param_groups"][0] and (
        optimizer == content.get("optimizer")
    ):
        found["optimizer"] = "optimizer"
    return found


def _parameter_groups(file: Path, state: Any) -> list[Mapping[str, Any]]:
    """Return `param_groups` of an optimiser's state dict.

    Raises:
        InputError: If there are none.
    """
    groups = state.get("param_groups") if isinstance(state, Mapping) else None
    if not isinstance(groups, list) or not all(isinstance(one, Mapping) for one in groups or [0]):
        raise InputError(
            f"{file.name}: optimizer_state_dict has no param_groups. Save "
            "optimizer.state_dict() as it is."
        )
    return groups


def _saved_scheduler(
    content: Mapping[str, Any], groups: Sequence[Mapping[str, Any]]
) -> SavedScheduler | None:
    """Return the one scheduler, with no state where it cannot be told which of several it is."""
    state = content.get("lr_scheduler_state_dict")
    found = list(state) if isinstance(state, list | tuple) else [state]
    if all(one is None or one == {} for one in found):
        return None
    alone = found[0] if len(found) == 1 else None
    return SavedScheduler(alone if isinstance(alone, Mapping) else {}, tuple(groups))


def _recorded_rates(name: str, rates: Any) -> Tensor | None:
    """Return the saved `learning_rates` as [steps, groups].

    Raises:
        InputError: If they are not numbers of 0 or more.
    """
    if rates is None:
        return None
    problem = f"{name}: learning_rates must be a list or tensor of one rate a step"
    try:
        values = torch.as_tensor(rates, dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"{problem}: {error}.") from error
    if values.dim() == 1:
        values = values.unsqueeze(1)
    columns = 2
    if values.dim() != columns or not bool((values.isfinite() & (values >= 0)).all()):
        raise InputError(f"{problem}, each finite and 0 or more; found {list(values.shape)}.")
    return values


def _optimizer_name(file: Path, groups: Sequence[Mapping[str, Any]], stated: Any) -> OptimizerName:
    first = groups[0]
    is_sgd = first.keys() >= _SGD
    if not is_sgd and not first.keys() >= _ADAM:
        raise InputError(
            f"{file.name}: the optimiser is not a supported one (its settings: "
            f"{', '.join(key for key in first if key != 'params')}). {_SUPPORTED}"
        )
    known = _OWN["SGD" if is_sgd else "AdamW"] | _OF_SCHEDULERS
    # A text is a group's name.
    foreign = {key for one in groups for key in one.keys() - known if not isinstance(one[key], str)}
    if foreign:
        raise InputError(
            f"{file.name}: the optimiser has settings that torch's own does not have: "
            f"{', '.join(sorted(map(str, foreign)))}. {_SUPPORTED} If it is one of these and they "
            "change no step, remove them from param_groups."
        )
    if any(group.get("maximize") for group in groups):
        raise InputError(
            f"{file.name}: the optimiser was used with maximize=True, which is not supported. "
            "Let it minimise the negative instead."
        )
    if is_sgd:
        return "SGD"
    decoupled = {bool(group.get("decoupled_weight_decay")) for group in groups}
    if all("decoupled_weight_decay" in group for group in groups) and len(decoupled) == 1:
        return "AdamW" if decoupled.pop() else "Adam"
    # Older versions of torch do not save which of the two it was.
    if stated in ("Adam", "AdamW"):
        return "AdamW" if stated == "AdamW" else "Adam"
    if not any(group["weight_decay"] for group in groups):
        return "Adam"
    raise InputError(
        f"{file.name}: the optimiser state does not say whether it is Adam's or AdamW's, whose "
        'weight decays differ. Add "optimizer": "AdamW" (or "Adam") to the checkpoint.'
    )


def _stored(file: Path, group: Mapping[str, Any], names: tuple[str, ...] | None) -> _StoredGroup:
    try:
        initial = group.get("initial_lr")
        settings = ParameterGroup(
            learning_rate=float(group["lr"]),
            momentum=float(group.get("momentum", 0.0)),
            dampening=float(group.get("dampening", 0.0)),
            weight_decay=float(group["weight_decay"]),
            initial_learning_rate=None if initial is None else float(initial),
            # What OneCycleLR and CyclicLR leave in the optimiser.
            momentum_cycles="momentum" in group
            and float(group.get("base_momentum", 0)) != float(group.get("max_momentum", 0)),
        )
        places = tuple(int(place) for place in group["params"])
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise InputError(
            f"{file.name}: a parameter group of the optimiser cannot be read ({error!r}). Save "
            "optimizer.state_dict() as it is."
        ) from error
    for name in ("learning_rate", "momentum", "dampening", "weight_decay"):
        if not 0 <= getattr(settings, name) < float("inf"):
            raise InputError(
                f"{file.name}: the optimiser has {name} {getattr(settings, name):g}; expected "
                "finite numbers of 0 or more."
            )
    return _StoredGroup(settings, places, names)


def _names(
    file: Path, groups: Sequence[Mapping[str, Any]], content: Mapping[str, Any]
) -> list[tuple[str, ...] | None]:
    """Return each group's parameter names: those of torch, or the checkpoint's own list."""
    counts = [len(group.get("params", ())) for group in groups]
    stated = content.get("parameter_names")
    if stated is None:
        given = [group.get("param_names") for group in groups]
        return [None if names is None else tuple(map(str, names)) for names in given]
    names = [str(name) for name in stated]
    if len(names) != sum(counts):
        raise InputError(
            f"{file.name}: parameter_names has {len(names)} names, the optimiser has "
            f"{sum(counts)} parameters. Expected one a parameter, group after group."
        )
    following = iter(names)
    return [tuple(islice(following, count)) for count in counts]


def _state_shapes(state: Mapping[str, Any]) -> dict[int, tuple[int, ...]]:
    return {
        int(place): tuple(entry[key].shape)
        for place, entry in dict(state.get("state") or {}).items()
        for key in _STATE_KEYS
        if isinstance(entry, Mapping) and hasattr(entry.get(key), "shape")
    }
