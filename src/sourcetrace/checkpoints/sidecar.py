"""The files beside a `.safetensors` checkpoint: settings in JSON, Adam's second moments."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from sourcetrace.checkpoints.optimizer_state import StoredGroup, TrainingState, recorded_rates
from sourcetrace.checkpoints.parameter_names import without_wrappers
from sourcetrace.core.training.optimizer_settings import ADAPTIVE, OptimizerName, ParameterGroup
from sourcetrace.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

OPTIMIZER_SUFFIX = ".optimizer.safetensors"
"""Of the file with `exp_avg_sq.<parameter>` (or `max_exp_avg_sq.…`, for amsgrad)."""

_NAMES: dict[str, OptimizerName] = {"sgd": "SGD", "adam": "Adam", "adamw": "AdamW"}


class SidecarGroup(BaseModel):
    """The settings of one parameter group."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    parameters: tuple[str, ...]
    learning_rate: float = Field(ge=0, allow_inf_nan=False)
    momentum: float = Field(default=0.0, ge=0, lt=1)
    dampening: float = Field(default=0.0, ge=0, le=1)
    weight_decay: float = Field(default=0.0, ge=0, allow_inf_nan=False)


class Sidecar(BaseModel):
    """The shape of a JSON sidecar.

    Attributes:
        step: Optimiser steps taken, over the whole training.
        optimizer: SGD, Adam or AdamW.
        learning_rate, momentum, dampening, weight_decay: Of all parameters; or
        parameter_groups: of each group.
        nesterov: Whether momentum was Nesterov's; its step in the long run is the same.
        beta2, eps, optimizer_step: Of Adam; the step since it was made, if not `step`.
        stage: Stage of training, if it had several.
        learning_rates: Of every step since the checkpoint before, or of every step so far.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    step: int = Field(ge=0)
    optimizer: str = Field(default="SGD", pattern="(?i)^(sgd|adam|adamw)$")
    learning_rate: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    momentum: float = Field(default=0.0, ge=0, lt=1)
    dampening: float = Field(default=0.0, ge=0, le=1)
    nesterov: bool = False
    weight_decay: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    parameter_groups: tuple[SidecarGroup, ...] = ()
    beta2: float = Field(default=0.999, ge=0, lt=1)
    eps: float = Field(default=1e-8, ge=0)
    optimizer_step: int | None = Field(default=None, ge=1)
    stage: str | None = None
    learning_rates: list[float] | list[list[float]] | None = None

    @model_validator(mode="after")
    def _has_a_rate(self) -> Self:
        if (self.learning_rate is None) == (not self.parameter_groups):
            raise ValueError("give either learning_rate or parameter_groups")
        return self

    @property
    def optimizer_name(self) -> OptimizerName:
        """The optimiser's name as torch writes it."""
        return _NAMES[self.optimizer.lower()]


def read_sidecar(file: Path) -> TrainingState:
    """Read how the weights in a `.safetensors` file were trained.

    Raises:
        InputError: If the JSON file is missing or does not fit `Sidecar`, or the second moments
            of Adam are missing.
    """
    sidecar = load_sidecar(file)
    adaptive = sidecar.optimizer_name in ADAPTIVE and sidecar.step > 0
    moments = stored_second_moments(file) if adaptive else {}
    groups: list[StoredGroup] = []
    shapes: dict[int, tuple[int, ...]] = {}
    count = 0
    for settings, names in _settings(sidecar):
        listed = tuple(sorted(moments)) if adaptive and names is None else names
        places = range(count, count + len(listed or ()))
        count = places.stop
        if adaptive:
            shapes |= {
                place: tuple(moments[name].shape)
                for place, name in zip(places, listed or (), strict=True)
                if name in moments
            }
        groups.append(StoredGroup(settings, tuple(places) if adaptive else (), listed))
    return TrainingState(
        step=sidecar.step,
        optimizer=sidecar.optimizer_name,
        groups=tuple(groups),
        stage=sidecar.stage,
        shapes=shapes,
        learning_rates=recorded_rates(_sidecar_path(file).name, sidecar.learning_rates),
    )


def load_sidecar(file: Path) -> Sidecar:
    """Read the JSON file beside a `.safetensors` file."""
    path = _sidecar_path(file)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(
            f"{file.name} has no sidecar {path.name}. Write one beside it: "
            '{"step": 100, "learning_rate": 0.1, "momentum": 0.9, "weight_decay": 0.0}.'
        ) from error
    except ValueError as error:
        raise InputError(f"{path.name} is not JSON: {error}.") from error
    return _validated(path.name, content)


def optimizer_file(file: Path) -> Path:
    """Return where Adam's second moments lie beside a `.safetensors` file."""
    return file.with_name(file.stem + OPTIMIZER_SUFFIX)


def stored_second_moments(file: Path) -> "dict[str, Tensor]":
    """Return parameter -> `max_exp_avg_sq`, or `exp_avg_sq` where there is none.

    Raises:
        InputError: If the file cannot be read.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    path = optimizer_file(file)
    try:
        tensors = load(path.read_bytes())
    except FileNotFoundError as error:
        raise InputError(
            f"{file.name} was trained by Adam, but {path.name} is missing. Write Adam's second "
            "moments there, under exp_avg_sq.<parameter name>."
        ) from error
    except SafetensorError as error:
        raise InputError(
            f"{path.name} cannot be read as safetensors: it is damaged or cut short. Copy it again."
        ) from error
    moments = {}
    for kind in ("exp_avg_sq.", "max_exp_avg_sq."):
        for key, tensor in tensors.items():
            if key.startswith(kind):
                moments[key.removeprefix(kind)] = tensor
    return dict(zip(without_wrappers(list(moments)), moments.values(), strict=True))


def _settings(sidecar: Sidecar) -> list[tuple[ParameterGroup, tuple[str, ...] | None]]:
    """Return each group's settings and names, None for every parameter."""
    if not sidecar.parameter_groups:
        rate = sidecar.learning_rate or 0.0
        one = ParameterGroup(rate, sidecar.momentum, sidecar.dampening, sidecar.weight_decay)
        return [(one, None)]
    return [
        (
            ParameterGroup(one.learning_rate, one.momentum, one.dampening, one.weight_decay),
            one.parameters,
        )
        for one in sidecar.parameter_groups
    ]


def _sidecar_path(file: Path) -> Path:
    return file.with_suffix(".json")


def _validated(name: str, content: Any) -> Sidecar:
    try:
        return Sidecar.model_validate(content)
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(map(str, problem['loc'])) or 'content'}: {problem['msg']}"
            for problem in error.errors()
        )
        raise InputError(f"{name} does not say how it was trained: {problems}.") from error
