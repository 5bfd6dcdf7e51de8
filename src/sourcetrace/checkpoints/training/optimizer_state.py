"""How a checkpoint was trained, from the state dict of its optimiser."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from sourcetrace.checkpoints.nested import ODD
from sourcetrace.checkpoints.training.denominators import shape_of
from sourcetrace.checkpoints.training.logged_rates import LoggedRates
from sourcetrace.checkpoints.training.optimizer_recognition import OptimizerState
from sourcetrace.checkpoints.training.optimizers import KnownOptimizer
from sourcetrace.checkpoints.training.scheduler_state import SavedScheduler
from sourcetrace.core.training.optimizer_settings import ADAPTIVE, OptimizerName, ParameterGroup
from sourcetrace.errors import InputError
from sourcetrace.formats import shorten


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
        own_steps: Steps that the optimiser itself has counted since it was made; 0 for none.
        optimizer: Its name.
        groups: The parameter groups, at least one.
        stage: Stage of training, if the file says.
        shapes: Place in the optimiser's state -> shape of the parameter, where it has a state.
        learning_rates: Of the steps up to this one, [steps] or [steps, groups], if saved.
        scheduler: A learning-rate scheduler, if saved.
        logged: Learning rates that the training logged, if it did.
        sources: Name in `schemas.CheckpointManifest` -> where the value comes from, in words; what
            is assumed begins with "assumed: ".
        approximation: What the steps are taken for, if they are not followed as they were.
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
    approximation: str = ""
    own_steps: int = 0

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
        state = OptimizerState.of(file, content["optimizer_state_dict"])
        known, groups = state.known, state.groups
        optimizer, named_by = _optimizer_name(file, known, groups, content)
        step = content["step"]
        if isinstance(step, bool) or not isinstance(step, int) or step < 0:
            raise InputError(
                f"{file.name}: step is {shorten(repr(step))}; expected the number of optimiser "
                "steps so far, a whole number of 0 or more."
            )
        shapes = {
            place: shape
            for place, entry in state.entries.items()
            if (shape := shape_of(entry)) is not None
        }
        lost = content.get("second_moments") == "none"
        if optimizer in ADAPTIVE and step and not (shapes or lost):
            raise InputError(
                f"{file.name}: the {optimizer} state has no second moments "
                f"({' or '.join(known.moments)}). Save optimizer.state_dict() as it is, with its "
                "'state'."
            )
        stage = content.get("stage")
        return cls(
            step=step,
            optimizer=optimizer,
            groups=tuple(
                _stored(file, group, names, known)
                for group, names in zip(groups, _names(file, groups, content), strict=True)
            ),
            stage=None if stage is None else str(stage),
            shapes=shapes,
            learning_rates=_recorded_rates(
                file.name, content.get("learning_rates", state.own_rates)
            ),
            scheduler=_saved_scheduler(content, groups),
            sources={
                name: (sources or {}).get(name, source)
                for name, source in _sources(optimizer, content).items()
            }
            | ({} if named_by is None else {"optimizer": named_by})
            | ({} if state.own_rates is None else {"learning_rates": "relative_step"})
            | {
                value: f"assumed: {words}"
                for value, words in (("updates", known.assumed), ("steps", known.approximation))
                if words
            },
            approximation=known.approximation,
            own_steps=state.steps,
        )

    def at_rate(self, learning_rate: float, origin: str) -> Self:
        """Return it with another learning rate of all groups, and where that is from."""
        groups = (
            replace(one, settings=replace(one.settings, learning_rate=learning_rate))
            for one in self.groups
        )
        sources = {**self.sources, "learning_rate": origin}
        return replace(self, groups=tuple(groups), sources=sources)


def _sources(optimizer: OptimizerName, content: Mapping[str, Any]) -> dict[str, str]:
    settings = ("optimizer", "learning_rate", "momentum", "weight_decay")
    moments = ("second_moments",) if optimizer in ADAPTIVE else ()
    found = {"step": "step"} | dict.fromkeys(settings + moments, "optimizer_state_dict")
    found["clipping"] = "assumed: no gradient was clipped"
    if content.get("stage") is not None:
        found["stage"] = "stage"
    return found


def _saved_scheduler(
    content: Mapping[str, Any], groups: Sequence[Mapping[str, Any]]
) -> SavedScheduler | None:
    """Return the one scheduler, with no state where it cannot be told which of several it is."""
    state = content.get("lr_scheduler_state_dict")
    found = list(state) if isinstance(state, list | tuple) else [state]
    if all(one is None or one == {} for one in found):
        return None
    alone = found[0] if len(found) == 1 else None
    state = alone if isinstance(alone, Mapping) else {}
    return SavedScheduler(state, tuple(groups), _epoch_steps(content))


def _epoch_steps(content: Mapping[str, Any]) -> int | None:
    """Return the optimiser's steps of an epoch, as Lightning's loops say them at the end of one."""
    loop = _within(content, "loops", "fit_loop")
    at_end = _within(loop, "epoch_loop.batch_progress", "is_last_batch")
    progress = _within(loop, "epoch_loop.automatic_optimization.optim_progress", "optimizer")
    steps = _within(progress, "step", "current", "completed")
    return steps if at_end is True and isinstance(steps, int) and steps > 0 else None


def _within(content: Any, *keys: str) -> Any:
    """Return what lies behind these keys; None where something else than mappings leads there."""
    for key in keys:
        content = content.get(key) if isinstance(content, Mapping) else None
    return content


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


def _optimizer_name(
    file: Path,
    known: KnownOptimizer,
    groups: Sequence[Mapping[str, Any]],
    content: Mapping[str, Any],
) -> tuple[OptimizerName, str | None]:
    """Return the name, and where it is from if not from the state."""
    if known.decoupled is None:
        return known.name, None
    decoupled = {bool(group.get("decoupled_weight_decay")) for group in groups}
    if all("decoupled_weight_decay" in group for group in groups) and len(decoupled) == 1:
        return (known.decoupled if decoupled.pop() else known.name), None
    # Older versions of torch do not save which of the two it was.
    for name in (known.name, known.decoupled):
        if content.get("optimizer") == name:
            return name, content.get("optimizer_from", "optimizer")
    if not any(group["weight_decay"] for group in groups):
        return known.name, None
    raise InputError(
        f"{file.name}: the optimiser state does not say whether it is {known.name}'s or "
        f"{known.decoupled}'s, whose weight decays differ. Add "
        f'"optimizer": "{known.decoupled}" (or "{known.name}") to the checkpoint, or set '
        f"checkpoints.optimizer to {{name: {known.decoupled}}}."
    )


def _stored(
    file: Path,
    group: Mapping[str, Any],
    names: tuple[str, ...] | None,
    known: KnownOptimizer,
) -> _StoredGroup:
    heavy_ball = group if known.has_heavy_ball else {}
    try:
        initial = group.get("initial_lr")
        settings = ParameterGroup(
            learning_rate=float(group["lr"]),
            momentum=float(heavy_ball.get("momentum", 0.0)),
            dampening=float(heavy_ball.get("dampening", 0.0)),
            weight_decay=float(group["weight_decay"]),
            initial_learning_rate=None if initial is None else float(initial),
            # What OneCycleLR and CyclicLR leave in the optimiser.
            momentum_cycles="momentum" in heavy_ball
            and float(group.get("base_momentum", 0)) != float(group.get("max_momentum", 0)),
        )
        places = tuple(int(place) for place in group["params"])
    except ODD as error:
        raise InputError(
            f"{file.name}: a parameter group of the optimiser cannot be read "
            f"({shorten(repr(error))}). Save optimizer.state_dict() as it is."
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
    else:
        following = iter(stated)
        given = [list(islice(following, count)) for count in counts]
        given[-1] += following
    found = [None if names is None else tuple(map(str, names)) for names in given]
    # A group without numbers is one that was stated.
    if any(
        names is not None and count and len(names) != count
        for names, count in zip(found, counts, strict=True)
    ):
        raise InputError(
            f"{file.name}: {'param_names' if stated is None else 'parameter_names'} has "
            f"{sum(len(names or ()) for names in found)} names, the optimiser has "
            f"{sum(counts)} parameters. Expected one a parameter, group after group."
        )
    return found
