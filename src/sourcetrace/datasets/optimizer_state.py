"""How a checkpoint was trained: step, learning rate, momentum and weight decay."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from sourcetrace.core.errors import InputError


class TrainingState(BaseModel):
    """What the method needs of the optimiser, and the shape of a JSON sidecar.

    Attributes:
        step: Optimiser steps taken, over the whole training.
        learning_rate: At this step.
        momentum: Heavy-ball β.
        weight_decay: Coupled weight decay.
        stage: Stage of training, if the file says.
        optimizer: Only SGD is supported.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    step: int = Field(ge=0)
    learning_rate: float = Field(ge=0, allow_inf_nan=False)
    momentum: float = Field(default=0.0, ge=0, lt=1)
    weight_decay: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    stage: str | None = None
    optimizer: str = Field(default="SGD", pattern="^(SGD|sgd)$")


def describe_training(file: Path, content: Mapping[str, Any]) -> TrainingState:
    """Derive the training state from the optimiser's state dict.

    Raises:
        InputError: If the optimiser is not SGD with heavy-ball momentum and one learning rate.
    """
    groups = _parameter_groups(file, content["optimizer_state_dict"])
    first = groups[0]
    settings = {"lr", "momentum", "dampening", "nesterov", "weight_decay"}
    # RMSprop and Muon have a momentum too; their own settings give them away.
    if not settings <= first.keys() or first.keys() & {"betas", "alpha", "ns_steps"}:
        raise InputError(
            f"{file.name}: the optimiser state is not torch.optim.SGD's "
            f"(its settings: {', '.join(key for key in first if key != 'params')}). "
            "Only SGD with momentum and coupled weight decay is supported so far."
        )
    for key in ("lr", "momentum", "weight_decay", "dampening", "nesterov", "maximize"):
        values = {float(group.get(key) or 0) for group in groups}
        if len(values) > 1:
            raise InputError(
                f"{file.name}: the parameter groups differ in {key} ({sorted(values)}). "
                "One value for all parameters is supported so far."
            )
    for key in ("dampening", "nesterov", "maximize"):
        if first.get(key):
            raise InputError(
                f"{file.name}: SGD was used with {key}={first[key]}, which is not supported "
                "so far; plain heavy-ball momentum is."
            )
    stage = content.get("stage")
    return _validated(
        file.name,
        {
            "step": content["step"],
            "learning_rate": first["lr"],
            "momentum": first["momentum"],
            "weight_decay": first["weight_decay"],
            "stage": None if stage is None else str(stage),
        },
    )


def read_sidecar(file: Path) -> TrainingState:
    """Read the JSON file beside a `.safetensors` file.

    Raises:
        InputError: If it is missing or does not fit `TrainingState`.
    """
    sidecar = file.with_suffix(".json")
    try:
        content = json.loads(sidecar.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(
            f"{file.name} has no sidecar {sidecar.name}. Write one beside it: "
            '{"step": 100, "learning_rate": 0.1, "momentum": 0.9, "weight_decay": 0.0}.'
        ) from error
    except ValueError as error:
        raise InputError(f"{sidecar.name} is not JSON: {error}.") from error
    return _validated(sidecar.name, content)


def _parameter_groups(file: Path, state: Any) -> list[Mapping[str, Any]]:
    groups = state.get("param_groups") if isinstance(state, Mapping) else None
    if not groups:
        raise InputError(
            f"{file.name}: optimizer_state_dict has no param_groups. Save "
            "optimizer.state_dict() as it is."
        )
    return list(groups)


def _validated(name: str, content: Any) -> TrainingState:
    try:
        return TrainingState.model_validate(content)
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(map(str, problem['loc'])) or 'content'}: {problem['msg']}"
            for problem in error.errors()
        )
        raise InputError(f"{name} does not say how it was trained: {problems}.") from error
