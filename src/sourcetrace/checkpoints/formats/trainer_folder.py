"""A folder `checkpoint-N` of the Trainer of Hugging Face's transformers."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from os.path import isdir, isfile
from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field

from sourcetrace.checkpoints.formats.model_folder import ModelFolder
from sourcetrace.checkpoints.formats.tensor_bytes import read_json, small

_STATE = "trainer_state.json"
_MAX_GRAD_NORM = 1.0
"""At which the Trainer clips where nobody says otherwise; what was said is in no plain file."""


class _LogEntry(BaseModel):
    step: int = Field(ge=0)
    learning_rate: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    grad_norm: float | None = None


class _TrainerState(BaseModel):
    global_step: int = Field(ge=0)
    max_steps: int
    log_history: tuple[_LogEntry, ...] = ()


class TrainerFolder(ModelFolder):
    """See `CheckpointFile`."""

    save_optimizer = "Train with save_only_model=False."

    @classmethod
    def is_one(cls, path: Path) -> bool:
        """Return whether it is a folder with a Trainer's state."""
        return isdir(path) and isfile(path / _STATE)

    @classmethod
    def files_of(cls, path: Path, root: Path) -> Sequence[Path]:
        """Return the state, and the others."""
        return [small(path / _STATE), *super().files_of(path, root)]

    @cached_property
    def found(self) -> Mapping[str, Any]:
        """See `CheckpointFile`."""
        return {**super().found, "step": self._state.global_step}

    @property
    def sources(self) -> Mapping[str, str]:
        """See `CheckpointFile`."""
        return {**super().sources, "step": _STATE, **self._clipping()}

    @property
    def logged(self) -> tuple[Mapping[int, float], int]:
        """See `CheckpointFile`."""
        last = self._state.global_step
        rates = {
            entry.step: entry.learning_rate
            for entry in self._state.log_history
            if entry.learning_rate is not None and 0 < entry.step <= last
        }
        return rates, self._state.max_steps

    def _clipping(self) -> dict[str, str]:
        """Say how many logged gradients were longer than the Trainer lets them be by default."""
        norms = [one.grad_norm for one in self._state.log_history if one.grad_norm is not None]
        longer = sum(not norm <= _MAX_GRAD_NORM for norm in norms)
        if not longer:
            return {}
        return {
            "clipping": f"assumed: no gradient was clipped; {longer} of {len(norms)} logged norms "
            f"exceed {_MAX_GRAD_NORM:g}, the Trainer's own max_grad_norm, by which such a step is "
            "shortened"
        }

    @cached_property
    def _state(self) -> _TrainerState:
        name = self._called(_STATE)
        before = f"{name} is not what transformers writes: "
        return read_json(_TrainerState, name, self._bytes[_STATE], before=before)
