"""Weights of large checkpoints, which every block of examples visits anew."""

import shutil
import tempfile
import weakref
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from sourcetrace.checkpoints.folder import KEPT_BYTES


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
        if name in self._files:
            mapped: Mapping[str, Tensor] = torch.load(
                self._files[name], mmap=True, weights_only=True
            )
            return mapped
        weights = self._read(name)
        if sum(one.nbytes for one in weights.values()) > KEPT_BYTES:
            file = self._place() / f"{len(self._files)}.pt"
            torch.save(dict(weights), file)
            self._files[name] = file
        return weights

    def _place(self) -> Path:
        if self._folder is None:
            self._parent.mkdir(parents=True, exist_ok=True)
            self._folder = Path(tempfile.mkdtemp(prefix="set-aside-", dir=self._parent))
            weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)
        return self._folder
