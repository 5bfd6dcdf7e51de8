"""What the formats of checkpoints have in common."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from sourcetrace.checkpoints.optimizer_state import TrainingState
from sourcetrace.errors import InputError


class CheckpointFile(ABC):
    """A checkpoint of one format, its files read once. A new format is one more such class.

    Each method raises InputError if the file cannot be read safely, or lacks what is asked.

    Attributes:
        path: The file, or the folder of a format that writes several.
        size: Of its files, in bytes.
        sha256: Of all their bytes, one file after the other.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._bytes = {file.name: file.read_bytes() for file in self.files_of(path)}
        except OSError as error:
            raise InputError(
                f"{error.filename} cannot be read: {error.strerror}. Expected a file of the "
                f"checkpoint {path.name} that you may read; copy it again."
            ) from error
        self.size = sum(map(len, self._bytes.values()))
        digest = hashlib.sha256()
        for data in self._bytes.values():
            digest.update(data)
        self.sha256 = digest.hexdigest()

    @classmethod
    @abstractmethod
    def is_one(cls, path: Path) -> bool:
        """Return whether a checkpoint of this format lies there, by its name."""

    @classmethod
    def files_of(cls, path: Path) -> Sequence[Path]:
        """Return the files of the checkpoint, all of which are read."""
        return [path]

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
        """Return the model's state dict as it was saved."""

    @property
    def sources(self) -> Mapping[str, str]:
        """Where values come from, as `TrainingState.sources`, other than its `of` takes it."""
        return {}

    def training(self) -> TrainingState:
        """Return what it says of the training."""
        file = self.settings_beside(self.path) or self.path
        return TrainingState.of(file, self.content, self.sources)

    def denominators(self, names: Mapping[int, Sequence[str]]) -> dict[str, Tensor]:
        """Return parameter -> √v̂ + ε of Adam or AdamW, infinite where no gradient ever came.

        Args:
            names: Place in the optimiser's state -> the parameter's names.
        """
        state = self.content["optimizer_state_dict"]
        return TrainingState.denominators(self.path, state, names)
