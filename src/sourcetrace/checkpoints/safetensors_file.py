"""A `.safetensors` file: weights; beside it settings in JSON and Adam's second moments."""

import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from os.path import isfile
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from sourcetrace.checkpoints.checkpoint_file import CheckpointFile
from sourcetrace.checkpoints.parameter_names import without_prefix
from sourcetrace.core.training.optimizer_settings import ADAPTIVE, OptimizerName
from sourcetrace.errors import InputError
from sourcetrace.validation import validated

_OPTIMIZER_SUFFIX = ".optimizer.safetensors"
"""Of the file with `exp_avg_sq.<parameter>` (or `max_exp_avg_sq.…`, for amsgrad)."""

_NAMES: dict[str, OptimizerName] = {"sgd": "SGD", "adam": "Adam", "adamw": "AdamW"}


class _Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    momentum: float = Field(default=0.0, ge=0, lt=1)
    dampening: float = Field(default=0.0, ge=0, le=1)
    weight_decay: float = Field(default=0.0, ge=0, allow_inf_nan=False)


class _SidecarGroup(_Settings):
    """The settings of one parameter group."""

    parameters: tuple[str, ...]
    learning_rate: float = Field(ge=0, allow_inf_nan=False)


class _Sidecar(_Settings):
    """The shape of the JSON file.

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

    step: int = Field(ge=0)
    optimizer: str = Field(default="SGD", pattern="(?i)^(sgd|adam|adamw)$")
    learning_rate: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    nesterov: bool = False
    parameter_groups: tuple[_SidecarGroup, ...] = ()
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


class SafetensorsFile(CheckpointFile):
    """See `CheckpointFile`."""

    @classmethod
    def is_one(cls, path: Path) -> bool:
        """Return whether it is a file that holds weights."""
        other = path.name.endswith(_OPTIMIZER_SUFFIX)
        return path.suffix == ".safetensors" and not other and isfile(path)

    @classmethod
    def files_of(cls, path: Path) -> Sequence[Path]:
        """Return the file and that of the second moments, where there is one."""
        moments = path.with_name(path.stem + _OPTIMIZER_SUFFIX)
        return [path, moments] if moments.exists() else [path]

    @staticmethod
    def settings_beside(path: Path) -> Path:
        """Return the JSON file."""
        return path.with_suffix(".json")

    @cached_property
    def content(self) -> Mapping[str, Any]:
        """What the JSON file and Adam's second moments say, as torch would."""
        sidecar = self._sidecar()
        optimizer = _NAMES[sidecar.optimizer.lower()]
        moments = self._second_moments() if optimizer in ADAPTIVE and sidecar.step else {}
        if sidecar.parameter_groups:
            named = {name for one in sidecar.parameter_groups for name in one.parameters}
            plain = without_prefix(list(moments), named)
            moments = dict(zip(plain, moments.values(), strict=True))
        groups: list[dict[str, Any]] = []
        state: dict[int, dict[str, Any]] = {}
        count = 0
        for one in sidecar.parameter_groups or (sidecar,):
            # One set of settings names no parameters: it is of all that have moments, or of all.
            names = one.parameters if isinstance(one, _SidecarGroup) else sorted(moments) or None
            group: dict[str, Any] = {"lr": one.learning_rate, "weight_decay": one.weight_decay}
            if optimizer in ADAPTIVE:
                group |= {
                    "params": range(count, count + len(names or ())),
                    "betas": (0.0, sidecar.beta2),
                    "eps": sidecar.eps,
                    "amsgrad": False,
                    "decoupled_weight_decay": optimizer == "AdamW",
                }
            else:
                group |= {
                    "params": (),
                    "momentum": one.momentum,
                    "dampening": one.dampening,
                    "nesterov": sidecar.nesterov,
                }
            if names is not None:
                group["param_names"] = names
            groups.append(group)
            for name in names or ():
                if name in moments:
                    steps = sidecar.optimizer_step or sidecar.step
                    state[count] = {"exp_avg_sq": moments[name], "step": steps}
                count += 1
        return {
            "optimizer_state_dict": {"state": state, "param_groups": groups},
            **sidecar.model_dump(include={"step", "stage", "learning_rates"}),
        }

    @property
    def sources(self) -> Mapping[str, str]:
        """The two files beside the weights."""
        settings = ("step", "stage", "optimizer", "learning_rate", "momentum", "weight_decay")
        moments = {"second_moments": self.path.stem + _OPTIMIZER_SUFFIX}
        return dict.fromkeys(settings, self.path.with_suffix(".json").name) | moments

    def weights(self) -> Mapping[str, Tensor]:
        """Return the tensors."""
        return tensors_of(self.path.name, self._bytes[self.path.name])

    def _sidecar(self) -> _Sidecar:
        path = self.path.with_suffix(".json")
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise InputError(
                f"{self.path.name} has no sidecar {path.name}. Write one beside it: "
                '{"step": 100, "learning_rate": 0.1, "momentum": 0.9, "weight_decay": 0.0}.'
            ) from error
        except (OSError, ValueError, RecursionError) as error:
            raise InputError(f"{path.name} cannot be read as JSON: {error}.") from error
        before = f"{path.name} does not say how it was trained: "
        return validated(_Sidecar, content, before=before)

    def _second_moments(self) -> dict[str, Tensor]:
        """Return parameter -> `max_exp_avg_sq`, or `exp_avg_sq` where there is none."""
        name = self.path.stem + _OPTIMIZER_SUFFIX
        if name not in self._bytes:
            raise InputError(
                f"{self.path.name} was trained by Adam, but {name} is missing. Write Adam's "
                "second moments there, under exp_avg_sq.<parameter name>."
            )
        tensors = tensors_of(name, self._bytes[name])
        return {
            key.removeprefix(kind): tensor
            for kind in ("exp_avg_sq.", "max_exp_avg_sq.")
            for key, tensor in tensors.items()
            if key.startswith(kind)
        }


def tensors_of(name: str, data: bytes) -> dict[str, Tensor]:
    """Return the tensors of a file.

    Raises:
        InputError: If it is damaged.
    """
    try:
        return load(data)
    except SafetensorError as error:
        raise InputError(
            f"{name} cannot be read as safetensors: it is damaged or cut short "
            f"({len(data):,} bytes). Copy it again."
        ) from error
