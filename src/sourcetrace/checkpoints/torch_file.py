"""A file of `torch.save`, read without executing: weights, optimiser and step."""

import io
import pickle
import re
import warnings
from collections.abc import Mapping
from functools import cached_property
from os.path import isfile
from pathlib import Path
from typing import Any
from zipfile import ZipFile, is_zipfile

import torch
from torch import Tensor

from sourcetrace.checkpoints.checkpoint_file import CheckpointFile
from sourcetrace.errors import InputError

_KEYS = {
    "model_state_dict": ("model_state_dict", "state_dict", "model", "model_state", "net"),
    "optimizer_state_dict": (
        "optimizer_state_dict",
        "optimizer",
        "optim",
        "optimizer_state",
        "optim_state_dict",
        "opt",
        "optimizer_states",
    ),
    "step": ("step", "global_step", "iteration", "num_steps"),
    "lr_scheduler_state_dict": (
        "lr_scheduler_state_dict",
        "scheduler_state_dict",
        "lr_scheduler",
        "scheduler",
        "lr_schedulers",
    ),
}
"""What a checkpoint holds, by our name -> the keys under which trainings save it.

Lightning writes lists, under the last of the optimiser's and of the scheduler's.
"""

SUFFIXES = (".pt", ".pth", ".ckpt", ".bin")


class TorchFile(CheckpointFile):
    """See `CheckpointFile`."""

    @classmethod
    def is_one(cls, path: Path) -> bool:
        """Return whether it is a file named like one."""
        return path.suffix in SUFFIXES and isfile(path)

    def weights(self) -> Mapping[str, Tensor]:
        """Return what `model_state_dict`, or another usual key, holds."""
        content = self.content["model_state_dict"]
        if not isinstance(content, Mapping) or not all(
            isinstance(key, str) and isinstance(value, Tensor) for key, value in content.items()
        ):
            raise InputError(
                f"{self.path.name}: model_state_dict is not a mapping of names to tensors. Save "
                "model.state_dict() as it is."
            )
        return content

    @cached_property
    def content(self) -> Mapping[str, Any]:
        """The whole mapping, with what it holds under a usual key under ours."""
        name = self.path.name
        content = load_torch(name, self._bytes[name])
        if not isinstance(content, Mapping):
            content = {}
        found = {ours: _held(name, content, ours) for ours in _KEYS}
        missing = [
            f"{ours} (or {', '.join(_KEYS[ours][1:])})"
            for ours in ("model_state_dict", "optimizer_state_dict", "step")
            if found[ours] is _NOTHING
        ]
        if missing:
            raise InputError(
                f"{name} lacks {'; '.join(missing)}. Found: "
                f"{', '.join(map(str, content))[:200] or 'no mapping'}. Save a mapping with "
                "model_state_dict, optimizer_state_dict and step."
            )
        found["optimizer_state_dict"] = _numbered(found["optimizer_state_dict"])
        under_ours = {key: one for key, one in found.items() if one is not _NOTHING}
        usual = {key for keys in _KEYS.values() for key in keys} - {"optimizer"}
        return {key: one for key, one in content.items() if key not in usual} | under_ours


def load_torch(name: str, data: bytes) -> Any:
    """Return what `torch.save` wrote, of tensors and plain values alone.

    Raises:
        InputError: If there is anything else in it, or it is damaged.
    """
    try:
        is_zip = is_zipfile(io.BytesIO(data))  # else of an older torch
        # torch does not compare the checksums that it writes: a flipped bit would be a weight.
        damaged = ZipFile(io.BytesIO(data)).testzip() if is_zip else None
        if damaged:
            raise InputError(
                f"{name} is damaged: {damaged} in it has another checksum than when it was "
                "saved. Copy it again, or remove it from the folder. Where torch was told to "
                "save none (torch.serialization.set_crc32_options(False)), save it with them."
            )
        with warnings.catch_warnings():
            # torch warns of foreign pickles before it refuses them; the refusal is ours.
            warnings.simplefilter("ignore")
            return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        kind = re.search(r"GLOBAL ([\w.]+)", str(error))
        raise InputError(
            f"{name} holds pickled Python objects{f' ({kind[1]})' if kind else ''} besides "
            "tensors, numbers and text; it was refused, nothing in it was executed. Save "
            "model_state_dict, optimizer_state_dict and step alone, not a whole model, and step "
            "as a plain int, not a numpy number."
        ) from error
    except InputError:
        raise
    # Of a damaged pickle torch's unpickler raises what its instructions happen to raise.
    except Exception as error:
        raise InputError(
            f"{name} cannot be read as a checkpoint of torch.save: it is damaged or "
            f"cut short ({len(data):,} bytes). Copy it again, or remove it from the folder."
        ) from error


_NOTHING = object()


def _held(name: str, content: Mapping[str, Any], ours: str) -> Any:
    """Return what a checkpoint holds under one of the usual keys, or `_NOTHING`.

    Raises:
        InputError: If several keys hold different things.
    """
    held = {key: content[key] for key in _KEYS[ours] if key in content}
    for key, value in held.items():
        if ours == "optimizer_state_dict" and isinstance(value, list) and len(value) > 1:
            raise InputError(
                f"{name} holds {len(value)} optimisers under {key}; expected one. A training by "
                "several is not supported: let one optimiser with parameter groups do it."
            )
    alone = {
        key: one[0] if isinstance(one, list) and len(one) == 1 else one for key, one in held.items()
    }
    # A text under `model` or `optimizer` is a name.
    held = {
        key: one
        for key, one in alone.items()
        if ours in (key, "step") or isinstance(one, Mapping | list)
    }
    if not held:
        return _NOTHING
    first, *others = held
    others = [key for key in others if not _same(held[key], held[first])]
    if others:
        raise InputError(
            f"{name} holds different things under {first} and {', '.join(others)}: which of them "
            f"is its {ours} cannot be known. Rename or remove what is not."
        )
    return held[first]


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        is_dense = one.layout == other.layout == torch.strided
        return is_dense and one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(_same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(_same, one, other))
    return type(one) is type(other) and bool(one == other)


def _numbered(state: Any) -> Any:
    """Number the parameters of an optimiser's state that names them.

    torch.distributed.checkpoint.state_dict.get_state_dict writes it so.
    """
    groups = state.get("param_groups") if isinstance(state, Mapping) else None
    groups = groups if isinstance(groups, list) else []
    listed = [group.get("params") if isinstance(group, Mapping) else None for group in groups]
    names = [name for own in listed if isinstance(own, list) for name in own]
    if not names or None in listed or not all(isinstance(name, str) for name in names):
        return state
    place = {name: number for number, name in enumerate(names)}
    return {
        "state": {
            place[name]: entry for name, entry in state.get("state", {}).items() if name in place
        },
        "param_groups": [
            {**group, "params": [place[n] for n in group["params"]], "param_names": group["params"]}
            for group in groups
        ],
    }
