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
from sourcetrace.checkpoints.usual_names import USUAL_NAMES, under_our_names
from sourcetrace.errors import InputError

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
        found = under_our_names(name, content)
        missing = [
            f"{ours} (or {', '.join(USUAL_NAMES[ours][1:])})"
            for ours in ("model_state_dict", "optimizer_state_dict", "step")
            if ours not in found
        ]
        if missing:
            raise InputError(
                f"{name} lacks {'; '.join(missing)}. Found: "
                f"{', '.join(map(str, content))[:200] or 'no mapping'}. Save a mapping with "
                "model_state_dict, optimizer_state_dict and step."
            )
        return found


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
