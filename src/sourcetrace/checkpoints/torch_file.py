"""A `.pt` file of `torch.save`, read without executing: weights, optimiser and step."""

import io
import pickle
import warnings
from collections.abc import Mapping
from functools import cached_property
from typing import Any
from zipfile import BadZipFile, ZipFile, is_zipfile

import torch
from torch import Tensor

from sourcetrace.checkpoints.checkpoint_file import CheckpointFile
from sourcetrace.checkpoints.parameter_names import plain_names
from sourcetrace.errors import InputError

_NEEDED = ("model_state_dict", "optimizer_state_dict", "step")


class TorchFile(CheckpointFile):
    """See `CheckpointFile`."""

    suffix = ".pt"

    def weights(self) -> Mapping[str, Tensor]:
        """Return `model_state_dict`."""
        content = self.content["model_state_dict"]
        if not isinstance(content, Mapping) or not all(
            isinstance(value, Tensor) for value in content.values()
        ):
            raise InputError(
                f"{self.path.name}: model_state_dict is not a mapping of names to tensors. Save "
                "model.state_dict() as it is."
            )
        return plain_names(content)

    @cached_property
    def content(self) -> Mapping[str, Any]:
        """The whole mapping."""
        name = self.path.name
        try:
            is_zip = is_zipfile(io.BytesIO(self._data))  # else of an older torch
            # torch does not compare the checksums that it writes: a flipped bit would be a weight.
            damaged = ZipFile(io.BytesIO(self._data)).testzip() if is_zip else None
            if damaged:
                raise InputError(
                    f"{name} is damaged: {damaged} in it has another checksum than when it was "
                    "saved. Copy it again, or remove it from the folder. Where torch was told to "
                    "save none (torch.serialization.set_crc32_options(False)), save it with them."
                )
            with warnings.catch_warnings():
                # torch warns of foreign pickles before it refuses them; the refusal is ours.
                warnings.simplefilter("ignore")
                content = torch.load(io.BytesIO(self._data), map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as error:
            raise InputError(
                f"{name} holds pickled Python objects besides tensors, numbers and text; it was "
                "refused, nothing in it was executed. Save model_state_dict, optimizer_state_dict "
                "and step alone, not a whole model, and step as a plain int, not a numpy number."
            ) from error
        except InputError:
            raise
        except (RuntimeError, EOFError, ValueError, OSError, KeyError, BadZipFile) as error:
            raise InputError(
                f"{name} cannot be read as a checkpoint of torch.save: it is damaged or "
                f"cut short ({self.size:,} bytes). Copy it again, or remove it from the folder."
            ) from error
        missing = [key for key in _NEEDED if not isinstance(content, Mapping) or key not in content]
        if missing:
            found = ", ".join(map(str, content)) if isinstance(content, Mapping) else "no mapping"
            raise InputError(
                f"{name} lacks {', '.join(missing)}; found: {found[:200]}. Expected a mapping "
                "with model_state_dict, optimizer_state_dict and step."
            )
        return {**content, "optimizer_state_dict": _numbered(content["optimizer_state_dict"])}


def _numbered(state: Any) -> Any:
    """Number the parameters of an optimiser's state that names them.

    torch.distributed.checkpoint.state_dict.get_state_dict writes it so.
    """
    groups = state.get("param_groups") or () if isinstance(state, Mapping) else ()
    names = [name for group in groups for name in group.get("params", ())]
    if not names or not all(isinstance(name, str) for name in names):
        return state
    place = {name: number for number, name in enumerate(names)}
    return {
        "state": {place[name]: entry for name, entry in state["state"].items() if name in place},
        "param_groups": [
            {**group, "params": [place[n] for n in group["params"]], "param_names": group["params"]}
            for group in groups
        ],
    }
