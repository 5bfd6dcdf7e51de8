"""A `.pt` file of `torch.save`, read without executing: weights, optimiser and step."""

import hashlib
import io
import pickle
import warnings
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any
from zipfile import BadZipFile, ZipFile, is_zipfile

import torch
from torch import Tensor

from sourcetrace.checkpoints.optimizer_state import TrainingState, denominator, parameter_groups
from sourcetrace.checkpoints.parameter_names import plain_names
from sourcetrace.errors import InputError

_NEEDED = ("model_state_dict", "optimizer_state_dict", "step")


class TorchFile:
    """See `folder.CheckpointFile`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._data = path.read_bytes()
        self.size = len(self._data)
        self.sha256 = hashlib.sha256(self._data).hexdigest()

    @staticmethod
    def lying_in(folder: Path) -> list[Path]:
        """Return the `.pt` files of a folder."""
        return [file for file in folder.glob("*.pt") if file.is_file()]

    @staticmethod
    def settings_beside(path: Path) -> Path | None:
        """Return None: the file says itself how it was trained."""
        return None

    def training(self) -> TrainingState:
        """Return how the weights were trained."""
        return TrainingState.of(self.path, self._content)

    def weights(self) -> Mapping[str, Tensor]:
        """Return `model_state_dict`."""
        content = self._content["model_state_dict"]
        if not isinstance(content, Mapping) or not all(
            isinstance(value, Tensor) for value in content.values()
        ):
            raise InputError(
                f"{self.path.name}: model_state_dict is not a mapping of names to tensors. Save "
                "model.state_dict() as it is."
            )
        return plain_names(content)

    def denominators(self, names: Mapping[int, tuple[str, ...]]) -> dict[str, Tensor]:
        """Return parameter -> √v̂ + ε of Adam or AdamW, infinite where no gradient ever came."""
        state = self._content["optimizer_state_dict"]
        found = {}
        for group in parameter_groups(self.path, state):
            for place in group["params"]:
                entry = (state.get("state") or {}).get(place)
                if place not in names or entry is None:
                    continue
                key = "max_exp_avg_sq" if group["amsgrad"] else "exp_avg_sq"
                if key not in entry or "step" not in entry:
                    raise InputError(
                        f"{self.path.name}: the optimiser state of {names[place][0]} lacks {key} "
                        "or step. Save optimizer.state_dict() as it is."
                    )
                value = denominator(
                    f"{self.path.name}: {names[place][0]}",
                    entry[key],
                    steps=float(entry["step"]),
                    beta=float(group["betas"][1]),
                    eps=float(group["eps"]),
                )
                found.update(dict.fromkeys(names[place], value))
        return found

    @cached_property
    def _content(self) -> Mapping[str, Any]:
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
