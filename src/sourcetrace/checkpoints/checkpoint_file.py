"""What the formats of checkpoints have in common."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor

from sourcetrace.checkpoints.optimizer_state import TrainingState


class CheckpointFile(ABC):
    """A checkpoint of one format, its bytes read once. A new format is one more such class.

    Each method raises InputError if the file cannot be read safely, or lacks what is asked.

    Attributes:
        suffix: Of the format's files.
        path: The file.
        size: Of the file, in bytes.
        sha256: Of its bytes, an optimiser's file beside it included.
    """

    suffix: ClassVar[str]

    def __init__(self, path: Path) -> None:
        self.path = path
        self._data = path.read_bytes()
        self.size = len(self._data)
        self.sha256 = hashlib.sha256(self._data).hexdigest()

    @classmethod
    def lying_in(cls, folder: Path) -> list[Path]:
        """Return the checkpoints of this format in a folder, in any order."""
        return [file for file in folder.glob(f"*{cls.suffix}") if file.is_file()]

    @staticmethod
    def settings_beside(path: Path) -> Path | None:
        """Return the file beside a checkpoint that says how it was trained, there or not."""
        return None

    @property
    @abstractmethod
    def content(self) -> Mapping[str, Any]:
        """How it was trained: `optimizer_state_dict` as torch has it, `step`, and what is optional.

        See `TrainingState.of`.
        """

    @abstractmethod
    def weights(self) -> Mapping[str, Tensor]:
        """Return the model's state dict, without the names of wrappers."""

    def training(self) -> TrainingState:
        """Return what it says of the training."""
        return TrainingState.of(self.settings_beside(self.path) or self.path, self.content)

    def denominators(self, names: Mapping[int, Sequence[str]]) -> dict[str, Tensor]:
        """Return parameter -> √v̂ + ε of Adam or AdamW, infinite where no gradient ever came.

        Args:
            names: Place in the optimiser's state -> the parameter's names.
        """
        state = self.content["optimizer_state_dict"]
        return TrainingState.denominators(self.path, state, names)
