"""A folder that is one checkpoint, its weights and its optimiser in files of their own.

`accelerate` writes it (`Accelerator.save_state`), `save_pretrained` the weights alone. What holds
Python objects in it, such as the states of random generators, is never read.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from os.path import isfile
from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field
from torch import Tensor

from sourcetrace.checkpoints.formats.checkpoint_file import CheckpointFile
from sourcetrace.checkpoints.formats.distributed_files import METADATA, distributed_content
from sourcetrace.checkpoints.formats.own_files import read_own
from sourcetrace.checkpoints.formats.tensor_bytes import load_torch, read_json, small, tensors_of
from sourcetrace.checkpoints.formats.usual_names import under_our_names, weights_of
from sourcetrace.errors import InputError
from sourcetrace.formats import format_names

_WEIGHTS = (
    *("model.safetensors", "pytorch_model.bin", "pytorch_model_fsdp.bin", "model.pt"),
    *("adapter_model.safetensors", "adapter_model.bin"),
)
_INDEX = ".index.json"
_DISTRIBUTED = {"pytorch_model_fsdp_0": "model_state_dict", "optimizer_0": "optimizer_state_dict"}
"""Sub-folders of torch.distributed.checkpoint, where the training was sharded."""
_OTHERS = {
    "optimizer.pt": "optimizer_state_dict",
    "optimizer.bin": "optimizer_state_dict",
    "scheduler.pt": "lr_scheduler_state_dict",
    "scheduler.bin": "lr_scheduler_state_dict",
}
"""Names of transformers' Trainer, and of accelerate."""
_SECOND = ("optimizer_1.bin", "optimizer_1", "model_1.safetensors", "pytorch_model_1.bin")


class _Index(BaseModel):
    weight_map: dict[str, str] = Field(min_length=1)


class ModelFolder(CheckpointFile):
    """See `CheckpointFile`."""

    @classmethod
    def is_one(cls, path: Path) -> bool:
        """Return whether an optimiser lies beside the weights, or an index of their parts."""
        optimizers = [name for name, ours in _OTHERS.items() if ours == "optimizer_state_dict"]
        indexes = [f"{name}{_INDEX}" for name in _WEIGHTS]
        distributed = [f"{name}/{METADATA}" for name in _DISTRIBUTED]
        return _has(path, indexes + distributed) or (
            _has(path, _WEIGHTS) and _has(path, optimizers)
        )

    @classmethod
    def files_of(cls, path: Path, root: Path) -> Sequence[Path]:
        """Return the weights, and what there is of optimiser and scheduler.

        Raises:
            InputError: If there are no weights, or the index of their parts names other files.
        """
        second = [name for name in _SECOND if (path / name).exists()]
        if second:
            raise InputError(
                f"{path.name} holds several models or optimisers ({format_names(second)}); "
                "expected one of each. A training by several is not supported: let one optimiser "
                "with parameter groups do it."
            )
        held = {**_OTHERS, **{f"{name}/{METADATA}": ours for name, ours in _DISTRIBUTED.items()}}
        for ours in dict.fromkeys(_OTHERS.values()):
            states = [name for name, one in held.items() if one == ours and isfile(path / name)]
            if len(states) > 1:
                raise InputError(
                    f"{path.name} has {format_names(states)}; expected one of them: which is its "
                    f"{ours} cannot be known. Remove or move what is not."
                )
        return [
            *_weight_files(path, root),
            *(path / name for name in _OTHERS if isfile(path / name)),
            *_distributed_files(path / "optimizer_0"),
        ]

    @cached_property
    def found(self) -> Mapping[str, Any]:
        """See `CheckpointFile`."""
        content = {
            ours: self._loaded(name) for name, ours in _OTHERS.items() if name in self._bytes
        }
        for name, ours in _DISTRIBUTED.items():
            files = {
                file.removeprefix(f"{name}/"): data
                for file, data in self._bytes.items()
                if file.startswith(f"{name}/")
            }
            if METADATA in files:
                called = self._called(name)
                held = under_our_names(called, distributed_content(called, files))
                content |= {ours: held[ours]} if ours in held else {}
        if "model_state_dict" not in content:
            content["model_state_dict"] = self._weights()
        return under_our_names(self.path.name, content)

    @property
    def sources(self) -> Mapping[str, str]:
        """The optimiser's file."""
        ours = {**_OTHERS, **_DISTRIBUTED}
        settings = ("optimizer", "learning_rate", "momentum", "weight_decay", "second_moments")
        return {
            value: name.partition("/")[0]
            for name in self._bytes
            if ours.get(name.partition("/")[0]) == "optimizer_state_dict"
            for value in settings
        }

    def _weights(self) -> Mapping[str, Tensor]:
        """Return the tensors of the file, or of all its parts."""
        weights: dict[str, Tensor] = {}
        parts: dict[str, str] = {}
        files = [path.name for path in _weight_files(self.path, self.root)]
        for name in files:
            if name.endswith(_INDEX):
                continue
            if name.endswith(".safetensors"):
                tensors: Mapping[str, Tensor] = tensors_of(self._called(name), self._bytes[name])
            else:
                tensors = weights_of(self._called(name), self._loaded(name))
            weights |= tensors
            parts |= dict.fromkeys(tensors, name)
        index = next((name for name in files if name.endswith(_INDEX)), None)
        if index is not None:
            expected = _weight_map(self._called(index), self._bytes[index])
            other = [key for key in {**expected, **parts} if expected.get(key) != parts.get(key)]
            if other:
                raise InputError(
                    f"{self._called(index)} and the parts disagree on {format_names(other)}: a "
                    "part is of another checkpoint, or was renamed. Copy the folder again."
                )
        return weights

    def _loaded(self, name: str) -> Any:
        return load_torch(self._called(name), self._bytes[name])

    def _called(self, name: str) -> str:
        return f"{self.path.name}/{name}"


def _has(folder: Path, names: Iterable[str]) -> bool:
    return any(isfile(folder / name) for name in names)


def _weight_files(folder: Path, root: Path) -> list[Path]:
    """Return the file of weights, or the index and the parts that it names.

    Raises:
        InputError: If there are none, or the index names other files than parts beside it.
    """
    for name in _WEIGHTS:
        if isfile(folder / name):
            return [folder / name]
        index = folder / f"{name}{_INDEX}"
        if isfile(index):
            named = _weight_map(f"{folder.name}/{index.name}", read_own(small(index), root))
            parts = sorted(set(named.values()))
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
    sharded = list(_distributed_files(folder / "pytorch_model_fsdp_0"))
    if sharded:
        return sharded
    raise InputError(
        f"{folder.name} has neither {' nor '.join(_WEIGHTS)}, nor an index of their parts. A "
        "checkpoint of DeepSpeed in parts must be saved whole (zero_to_fp32.py)."
    )


def _distributed_files(folder: Path) -> Iterator[Path]:
    if isfile(folder / METADATA):
        yield folder / METADATA
        yield from sorted(folder.glob("*.distcp"))


def _weight_map(name: str, data: bytes) -> dict[str, str]:
    before = f"{name} is not what transformers writes: "
    return read_json(_Index, name, data, before=before).weight_map
