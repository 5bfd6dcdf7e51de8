"""What a person says of a training where its checkpoints do not: in JSON files, or in parameters.

Beside a checkpoint `a.pt` lies `a.json`, and Adam's second moments in `a.optimizer.safetensors`; in
a folder that is one checkpoint, `training.json` and `training.optimizer.safetensors`.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from os.path import isdir
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, model_validator
from torch import Tensor

from sourcetrace.checkpoints.stated_optimizer import OPTIMIZERS, NamedOptimizer, StatedOptimizer
from sourcetrace.checkpoints.tensor_bytes import small, tensors_of
from sourcetrace.errors import InputError
from sourcetrace.validation import validated

MOMENTS_SUFFIX = ".optimizer.safetensors"
"""Of the file with `exp_avg_sq.<parameter>` (or `max_exp_avg_sq.…`, for amsgrad)."""


class _StatedFile(StatedOptimizer):
    """The shape of the JSON file.

    Attributes:
        step: Optimiser steps taken, over the whole training.
        optimizer: SGD, Adam or AdamW.
        stage: Stage of training, if it had several.
        learning_rates: Of every step since the checkpoint before, or of every step so far.
    """

    step: int | None = Field(default=None, ge=0)
    optimizer: str | None = Field(default=None, pattern=OPTIMIZERS)
    stage: str | None = None
    learning_rates: list[float] | list[list[float]] | None = None

    @model_validator(mode="after")
    def _has_one_rate(self) -> Self:
        if self.learning_rate is not None and self.parameter_groups:
            raise ValueError("give either learning_rate or parameter_groups")
        return self


StepSource = Literal["name", "scheduler"]
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
    step_from: StepSource | None = None
    folder: Path | None = None
    accept: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Check them.

        Raises:
            InputError: If they cannot be what they should be.
        """
        if self.step_from not in (None, "name", "scheduler"):
            raise InputError(
                f"checkpoints.step_from is {self.step_from!r}; expected name, scheduler or null."
            )
        if self.optimizer is not None:
            validated(NamedOptimizer, self.optimizer, name="checkpoints.optimizer")


class Stated:
    """What is said of one checkpoint.

    Attributes:
        json: Where the JSON file is, there or not.
        moments: Where Adam's second moments are, there or not.
    """

    def __init__(self, path: Path, parameters: StatedParameters) -> None:
        self.json, self.moments = files_beside(path)
        self._path = path
        self._parameters = parameters

    @property
    def content(self) -> dict[str, Any]:
        """What the JSON file says beside the optimiser's settings.

        Raises:
            InputError: If it cannot be read, or says something else.
        """
        said = self._file()
        keys = {"step", "stage", "learning_rates", "optimizer"}
        return {} if said is None else said.model_dump(include=keys, exclude_none=True)

    @property
    def named(self) -> NamedOptimizer | None:
        """What the parameters say of the optimiser."""
        said = self._parameters.optimizer
        return None if said is None else NamedOptimizer.model_validate(said)

    def optimizer(
        self, step: int, moments: bytes | None
    ) -> tuple[dict[str, Any], dict[str, str]] | None:
        """Return what stands for the optimiser's state in a checkpoint, and where it is from.

        Args:
            step: Of the checkpoint.
            moments: The file of Adam's second moments, where there is one.

        Raises:
            InputError: If Adam's second moments are missing.
        """
        said = self._file()
        settings: StatedOptimizer
        if said is not None and (said.learning_rate is not None or said.parameter_groups):
            settings, kind, origin = said, said.optimizer or "SGD", self.json.name
        elif (own := self.named) is not None and (
            own.learning_rate is not None or own.parameter_groups
        ):
            settings, kind, origin = own, own.name, "assumed: checkpoints.optimizer"
        else:
            return None
        sources = dict.fromkeys(("optimizer", "learning_rate", "momentum", "weight_decay"), origin)
        found: dict[str, Tensor] = {}
        content: dict[str, Any] = {}
        if kind.lower() != "sgd" and step:
            if moments is not None:
                found = _second_moments(self.moments.name, moments)
                sources["second_moments"] = self.moments.name
            elif settings.second_moments == "none":
                content["second_moments"] = "none"
                sources["second_moments"] = "assumed: none, they are lost"
            else:
                raise InputError(
                    f"{self._path.name} was trained by Adam, but {self.moments.name} is missing. "
                    "Write Adam's second moments there, under exp_avg_sq.<parameter name>. Where "
                    'they are lost, say second_moments: "none" beside its other settings, and '
                    "choose an attribution.method that does not follow the optimiser, such as "
                    "influence."
                )
        content["optimizer_state_dict"] = settings.state(kind, step, found)
        return content, sources

    def step(self, scheduler: int | None) -> tuple[int, str] | None:
        """Return the step that `checkpoints.step_from` leads to and its source, if it is set.

        Args:
            scheduler: How often the checkpoint's scheduler was stepped, if known.

        Raises:
            InputError: If it leads to none.
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
        return scheduler, "assumed: the steps of the scheduler (checkpoints.step_from)"

    def _step_in_name(self) -> int:
        """Return the number in the checkpoint's name, or else in its sub-folder's."""
        inside = self._path.parent != self._parameters.folder
        names = [self._path.stem if self._path.suffix else self._path.name]
        for name in [*names, *([self._path.parent.name] if inside else [])]:
            numbers = re.findall(r"(?i)step[^0-9]?([0-9]+)", name) or re.findall(r"[0-9]+", name)
            if len(numbers) == 1:
                return int(numbers[0])
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

    def _file(self) -> _StatedFile | None:
        try:
            content = json.loads(small(self.json).read_text(encoding="utf-8"))
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (OSError, ValueError, RecursionError) as error:
            raise InputError(f"{self.json.name} cannot be read as JSON: {error}.") from error
        before = f"{self.json.name} does not say how it was trained: "
        return validated(_StatedFile, content, before=before)


def files_beside(path: Path) -> tuple[Path, Path]:
    """Return where the JSON file and the second moments of a checkpoint are, there or not."""
    if isdir(path):
        return path / "training.json", path / f"training{MOMENTS_SUFFIX}"
    return path.with_suffix(".json"), path.with_name(path.stem + MOMENTS_SUFFIX)


def _second_moments(name: str, data: bytes) -> dict[str, Tensor]:
    """Return parameter -> `max_exp_avg_sq`, or `exp_avg_sq` where there is none."""
    tensors = tensors_of(name, data)
    return {
        key.removeprefix(kind): tensor
        for kind in ("exp_avg_sq.", "max_exp_avg_sq.")
        for key, tensor in tensors.items()
        if key.startswith(kind)
    }
