"""Weights of large checkpoints, which every block of examples visits anew."""

from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from sourcetrace.checkpoints.folder import KEPT_BYTES
from sourcetrace.datasets.tensor_file import folder_of


class LargeWeights:
    """Reads a checkpoint once, and its weights from then on from a file that is mapped.

    A checkpoint's own file holds the optimiser beside them, and is read as a whole to be checked.
    Small weights are left to the folder of checkpoints, which keeps them in memory.

    Args:
        read: Checkpoint id -> state dict, checked.
        folder: In which a folder for such files is made, which goes with this object.
    """

    def __init__(self, read: Callable[[str], Mapping[str, Tensor]], folder: Path) -> None:
        self._read, self._parent = read, folder
        self._folder: Path | None = None
        self._files: dict[str, Path] = {}

    def __call__(self, name: str) -> Mapping[str, Tensor]:
        """Return a checkpoint's weights."""
        if name not in self._files:
            weights = self._read(name)
            if sum(one.nbytes for one in weights.values()) <= KEPT_BYTES:
                return weights
            self._folder = self._folder or folder_of(self, self._parent)
            file = self._folder / f"{len(self._files)}.pt"
            torch.save(dict(weights), file)
            self._files[name] = file
            del weights  # several may be averaged
        mapped: Mapping[str, Tensor] = torch.load(self._files[name], mmap=True, weights_only=True)
        return mapped
