"""What a person says of a training where its checkpoints do not: in JSON, or in parameters."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from pydantic import Field
from torch import Tensor

from sourcetrace.checkpoints.formats.checkpoint_file import files_beside, name_of
from sourcetrace.checkpoints.formats.tensor_bytes import read_json, tensors_of
from sourcetrace.checkpoints.training.stated_optimizer import NAMES, StatedOptimizer
from sourcetrace.errors import InputError
from sourcetrace.validation import validated

_PARAMETERS = "checkpoints.optimizer"
_NAMED_STEP = re.compile(r"(?i)(?<![^\W\d_])step[^0-9]?([0-9]+)")
_MORE_OF_A_NUMBER = re.compile(r"[^\W_]|[.,]|[\W_]\d")
"""What makes 10 part of another number or word: 10k, 1e4, 1.5, 10_000."""


class _StatedFile(StatedOptimizer):
    """The shape of the JSON file.

    Attributes:
        step: Optimiser steps taken, over the whole training.
        stage: Stage of training, if it had several.
        learning_rates: Of every step since the checkpoint before, or of every step so far.
    """

    name: str | None = Field(default=None, pattern=NAMES, alias="optimizer")
    step: int | None = Field(default=None, ge=0)
    stage: str | None = None
    learning_rates: list[float] | list[list[float]] | None = None


class _NamedOptimizer(StatedOptimizer):
    """The shape of `checkpoints.optimizer`."""

    name: str = Field(pattern=NAMES)


_StepSource = Literal["name", "scheduler"]
"""Where a step is taken from that the checkpoint does not say: the number in the checkpoint's name,
or how often its scheduler was stepped."""


@dataclass(frozen=True)
class StatedParameters:
    """What the parameters say of every checkpoint that does not say it itself.

    Attributes:
        optimizer: Its settings, by their names in `checkpoints.optimizer`.
        step_from: Where the step is taken from.
        folder: In which all checkpoints lie; its own name has no step.
        accept: Optimisers whose steps may be approximated.
    """

    optimizer: Mapping[str, Any] | None = None
    step_from: _StepSource | None = None
    folder: Path | None = None
    accept: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Check them.

        Raises:
            InputError: If they cannot be what they should be.
        """
        _ = self.settings

    @cached_property
    def settings(self) -> StatedOptimizer | None:
        """Its settings."""
        if self.optimizer is None:
            return None
        return validated(_NamedOptimizer, self.optimizer, name=_PARAMETERS)


class Stated:
    """What is said of one checkpoint: a JSON file beside it counts before the parameters.

    Attributes:
        json: Where the JSON file is, there or not.
    """

    def __init__(self, path: Path, parameters: StatedParameters, beside: bytes | None) -> None:
        self.json, self._moments = files_beside(path)
        self._path = path
        self._parameters = parameters
        self._beside = beside

    @property
    def content(self) -> dict[str, Any]:
        """What the JSON file says beside the optimiser's settings.

        Raises:
            InputError: If it cannot be read, or says something else.
        """
        keys = {"step", "stage", "learning_rates"}
        return self._file.model_dump(include=keys, exclude_none=True)

    @property
    def kind(self) -> tuple[str, str] | None:
        """The optimiser's name, and where it is from."""
        name = self._settings.kind
        return None if name is None else (name, self._origin("name"))

    @property
    def has_rates(self) -> bool:
        """Whether it says enough of the optimiser to stand for its state."""
        return self._settings.has_rates

    def optimizer(self, step: int, moments: bytes | None) -> tuple[dict[str, Any], dict[str, str]]:
        """Return what stands for the optimiser's state in a checkpoint, and where it is from.

        Args:
            step: Of the checkpoint.
            moments: The file of Adam's second moments, where there is one.

        Raises:
            InputError: If Adam's second moments are missing, or lie beside SGD's checkpoint.
        """
        settings = self._settings
        grouped = bool(settings.parameter_groups)
        rate = "parameter_groups" if grouped else "learning_rate"
        sources = {
            "optimizer": self._origin("name", rate),
            "learning_rate": self._origin(rate),
            **{
                name: self._origin(rate) if grouped else self._origin(name, rate)
                for name in ("momentum", "weight_decay")
            },
        }
        found: dict[str, Tensor] = {}
        content: dict[str, Any] = {}
        if settings.kind in ("Adam", "AdamW") and step:
            if moments is not None:
                found = _second_moments(self._moments.name, moments)
                sources["second_moments"] = self._moments.name
            elif settings.second_moments == "none":
                content["second_moments"] = "none"
                sources["second_moments"] = "assumed: none, they are lost"
            else:
                raise InputError(
                    f"{self._path.name} was trained by Adam, but {self._moments.name} is missing. "
                    "Write Adam's second moments there, under exp_avg_sq.<parameter name>. Where "
                    'they are lost, say second_moments: "none" beside its other settings, and '
                    "choose an attribution.method that does not follow the optimiser, such as "
                    "influence."
                )
        elif moments is not None and settings.kind in (None, "SGD"):
            raise InputError(
                f"{self._moments.name} has Adam's second moments, but {self._path.name} is said to "
                f"be of SGD ({sources['optimizer']}). Name Adam or AdamW there, or remove the file."
            )
        content["optimizer_state_dict"] = settings.state(step, found)
        return content, sources

    def step(self, scheduler: int | None, own: int | None) -> tuple[int, str] | None:
        """Return the step that `checkpoints.step_from` leads to and its source, if it is set.

        Args:
            scheduler: How often the checkpoint's scheduler was stepped, if known.
            own: How many steps the checkpoint's optimiser counted, if it did.

        Raises:
            InputError: If it leads to none, or the scheduler to another than the optimiser's.
        """
        source = self._parameters.step_from
        if source == "name":
            return self._step_in_name(), "assumed: the number in the name (checkpoints.step_from)"
        if source is None:
            return None
        if scheduler is None:
            raise InputError(
                f"{self._path.name} has no scheduler that counts its steps, but "
                "checkpoints.step_from is scheduler. Set it to name, or write the step "
                f"into {self.json.name}."
            )
        if own not in (None, scheduler):
            raise InputError(
                f"{self._path.name}: its scheduler was stepped {scheduler} times, its optimiser "
                f"counts {own} steps, so the scheduler does not count them (accelerate steps it "
                "once a process). Set checkpoints.step_from to null for the optimiser's count, or "
                f"write the step into {self.json.name}."
            )
        return scheduler, "assumed: the steps of the scheduler (checkpoints.step_from)"

    def _step_in_name(self) -> int:
        """Return the number in the checkpoint's name, or else in its sub-folder's."""
        inside = self._path.parent != self._parameters.folder
        for name in [name_of(self._path), *([self._path.parent.name] if inside else [])]:
            found = list(_NAMED_STEP.finditer(name)) or list(re.finditer("([0-9]+)", name))
            numbers = [one[1] for one in found]
            if len(numbers) == 1:
                rest = _MORE_OF_A_NUMBER.match(name, found[0].end())
                if rest is None:
                    return int(numbers[0])
                raise InputError(
                    f"checkpoints.step_from: in {name}, {rest[0]!r} follows {numbers[0]}; a step "
                    "is written in digits alone. Rename it, 10k to step_10000, say, or write the "
                    f"step into {self.json.name}."
                )
            if numbers:
                raise InputError(
                    f"checkpoints.step_from: {name} has the numbers {', '.join(numbers)}; which of "
                    f"them is the step cannot be known. Name it step_{numbers[-1]}, say, or write "
                    f"the step into {self.json.name}."
                )
        raise InputError(
            f"checkpoints.step_from: there is no number in the name of {self._path.name}. Write "
            f"the step into {self.json.name}."
        )

    @cached_property
    def _file(self) -> _StatedFile:
        name = self.json.name
        if self._beside is None:
            return _StatedFile()
        before = f"{name} does not say how it was trained: "
        return read_json(_StatedFile, name, self._beside, before=before)

    @cached_property
    def _settings(self) -> StatedOptimizer:
        return self._file.over(self._parameters.settings)

    def _origin(self, *settings: str) -> str:
        """Return who said the first of these that anybody did."""
        for name in settings:
            if name in self._file.model_fields_set and getattr(self._file, name) is not None:
                return self.json.name
            if name in self._settings.model_fields_set:
                break
        return f"assumed: {_PARAMETERS}"


def _second_moments(name: str, data: bytes) -> dict[str, Tensor]:
    """Return parameter -> `max_exp_avg_sq`, or `exp_avg_sq` where there is none."""
    tensors = tensors_of(name, data)
    return {
        key.removeprefix(kind): tensor
        for kind in ("exp_avg_sq.", "max_exp_avg_sq.")
        for key, tensor in tensors.items()
        if key.startswith(kind)
    }
