"""A folder `checkpoint-N` of the Trainer of Hugging Face's transformers."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from os.path import isdir, isfile
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, Field
from torch import Tensor

from sourcetrace.checkpoints.checkpoint_file import CheckpointFile
from sourcetrace.checkpoints.logged_rates import LoggedRates
from sourcetrace.checkpoints.optimizer_state import TrainingState
from sourcetrace.checkpoints.safetensors_file import tensors_of
from sourcetrace.checkpoints.torch_file import load_torch
from sourcetrace.errors import InputError
from sourcetrace.formats import format_names
from sourcetrace.validation import validated

_STATE = "trainer_state.json"
_OPTIMIZER = "optimizer.pt"
_SCHEDULER = "scheduler.pt"
_WEIGHTS = ("model.safetensors", "pytorch_model.bin")
_SUFFIXES = (".safetensors", ".bin")
_INDEX = ".index.json"
_MOST_JSON = 2**26
"""Bytes of a JSON file that is read."""


_Model = TypeVar("_Model", bound=BaseModel)


class _LogEntry(BaseModel):
    step: int = Field(ge=0)
    learning_rate: float | None = Field(default=None, ge=0, allow_inf_nan=False)


class _TrainerState(BaseModel):
    global_step: int = Field(ge=0)
    max_steps: int
    log_history: tuple[_LogEntry, ...] = ()


class _Index(BaseModel):
    weight_map: dict[str, str] = Field(min_length=1)


class TrainerFolder(CheckpointFile):
    """See `CheckpointFile`."""

    @classmethod
    def is_one(cls, path: Path) -> bool:
        """Return whether it is a folder with a Trainer's state."""
        return isdir(path) and isfile(path / _STATE)

    @classmethod
    def files_of(cls, path: Path) -> Sequence[Path]:
        """Return the state, the weights, and what there is of optimiser and scheduler."""
        others = (path / name for name in (_OPTIMIZER, _SCHEDULER))
        return [
            _small(path / _STATE),
            *_weight_files(path),
            *(file for file in others if isfile(file)),
        ]

    @cached_property
    def content(self) -> Mapping[str, Any]:
        """What optimiser, scheduler and state say."""
        if _OPTIMIZER not in self._bytes:
            raise InputError(
                f"{self.path.name} has no {_OPTIMIZER}: the Trainer saved the model alone, or the "
                "optimiser elsewhere. Train with save_only_model=False, on one device or with "
                "DistributedDataParallel."
            )
        return {
            "optimizer_state_dict": self._loaded(_OPTIMIZER),
            "step": self._state.global_step,
            "lr_scheduler_state_dict": (
                self._loaded(_SCHEDULER) if _SCHEDULER in self._bytes else None
            ),
        }

    @property
    def sources(self) -> Mapping[str, str]:
        """The Trainer's files."""
        settings = ("optimizer", "learning_rate", "momentum", "weight_decay", "second_moments")
        return dict.fromkeys(settings, _OPTIMIZER) | {"step": _STATE}

    def training(self) -> TrainingState:
        """Return what it says of the training, the logged learning rates as well."""
        rates = {
            entry.step: entry.learning_rate
            for entry in self._state.log_history
            if entry.learning_rate is not None and 0 < entry.step <= self._state.global_step
        }
        return replace(super().training(), logged=LoggedRates(rates, self._state.max_steps))

    def weights(self) -> Mapping[str, Tensor]:
        """Return the tensors of the file, or of all its parts."""
        weights: dict[str, Tensor] = {}
        parts: dict[str, str] = {}
        for name in self._bytes:
            if not name.endswith(_SUFFIXES):
                continue
            if name.endswith(".bin"):
                tensors = self._loaded(name)
            else:
                tensors = tensors_of(self._called(name), self._bytes[name])
            if not isinstance(tensors, Mapping) or not all(
                isinstance(key, str) and isinstance(one, Tensor) for key, one in tensors.items()
            ):
                raise InputError(
                    f"{self._called(name)} is not a mapping of names to tensors. Save the model "
                    "by the Trainer, or by save_pretrained."
                )
            weights |= tensors
            parts |= dict.fromkeys(tensors, name)
        index = next((name for name in self._bytes if name.endswith(_INDEX)), None)
        if index is not None:
            expected = _weight_map(self.path / index, self._bytes[index])
            other = [key for key in {**expected, **parts} if expected.get(key) != parts.get(key)]
            if other:
                raise InputError(
                    f"{self._called(index)} and the parts disagree on {format_names(other)}: a "
                    "part is of another checkpoint, or was renamed. Copy the folder again."
                )
        return weights

    @cached_property
    def _state(self) -> _TrainerState:
        return _json(_TrainerState, self.path / _STATE, self._bytes[_STATE])

    def _loaded(self, name: str) -> Any:
        return load_torch(self._called(name), self._bytes[name])

    def _called(self, name: str) -> str:
        return f"{self.path.name}/{name}"


def _weight_files(folder: Path) -> list[Path]:
    """Return the file of weights, or the index and the parts that it names.

    Raises:
        InputError: If there are none, or the index names other files than parts beside it.
    """
    for name in _WEIGHTS:
        if isfile(folder / name):
            return [folder / name]
        index = folder / f"{name}{_INDEX}"
        if isfile(index):
            parts = sorted(set(_weight_map(index, _small(index).read_bytes()).values()))
            # No name that leads elsewhere, on any system.
            part = r"[\w.-]+" + re.escape(Path(name).suffix)
            missing = [
                one for one in parts if not re.fullmatch(part, one) or not isfile(folder / one)
            ]
            if missing:
                raise InputError(
                    f"{folder.name}/{index.name} names {format_names(map(repr, missing))}; "
                    f"expected {Path(name).suffix} files that lie in {folder.name} itself. Copy "
                    "the folder again."
                )
            return [index, *(folder / one for one in parts)]
    raise InputError(
        f"{folder.name} has neither {' nor '.join(_WEIGHTS)}, nor an index of their parts. A "
        "checkpoint of DeepSpeed or FSDP in parts must be saved whole; of an adapter alone (peft), "
        "save the whole model's weights."
    )


def _small(file: Path) -> Path:
    if file.stat().st_size > _MOST_JSON:
        raise InputError(
            f"{file.parent.name}/{file.name} has {file.stat().st_size:,} bytes; expected at most "
            f"{_MOST_JSON:,}. It is not what the Trainer writes; copy the folder again."
        )
    return file


def _weight_map(file: Path, data: bytes) -> dict[str, str]:
    return _json(_Index, file, data).weight_map


def _json(model: type[_Model], file: Path, data: bytes) -> _Model:
    name = f"{file.parent.name}/{file.name}"
    try:
        content = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{name} is not JSON: {error}. Copy it again.") from error
    return validated(model, content, before=f"{name} is not what transformers writes: ")
