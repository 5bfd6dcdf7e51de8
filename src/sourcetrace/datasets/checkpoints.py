"""A folder of ordinary PyTorch checkpoints, read without executing anything in them.

What sub-folders mean, see `sourcetrace.checkpoints.folder`.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from kedro.io import AbstractDataset

from sourcetrace.errors import InputError
from sourcetrace.files import replacing

if TYPE_CHECKING:
    from sourcetrace.checkpoints.folder import CheckpointFolder

_MARKER = ".saved-by-sourcetrace"
"""File in a folder whose checkpoints may be replaced."""


class CheckpointsDataset(AbstractDataset[Sequence[Mapping[str, Any]], "CheckpointFolder"]):
    """Reads a folder of files of `torch.save`, or `.safetensors` with a JSON sidecar; writes `.pt`.

    Saving replaces the `.pt` files of an earlier save. A folder with checkpoints from elsewhere
    is left as it is, with an error.

    YAML:
        checkpoints:
          type: sourcetrace.datasets.CheckpointsDataset
          path: data/01_raw/checkpoints
          stages: {pretraining: 2000, finetuning: 2600}   # last step of each stage
          learning_rates: data/01_raw/learning_rates.csv   # where the files do not say
          optimizer: {name: SGD, learning_rate: 0.1, momentum: 0.9}   # where its state is lost
          step_from: name   # or scheduler, where the files do not say

    Python:
        CheckpointsDataset(path="checkpoints").load().files()
    """

    def __init__(
        self,
        path: str,
        stages: Mapping[str, int] | None = None,
        learning_rates: str | None = None,
        optimizer: Mapping[str, Any] | None = None,
        step_from: Literal["name", "scheduler"] | None = None,
    ) -> None:
        self._path = Path(path)
        self._stages = stages
        self._learning_rates = None if learning_rates is None else Path(learning_rates)
        self._optimizer = optimizer
        self._step_from = step_from

    def _load(self) -> "CheckpointFolder":
        from sourcetrace.checkpoints.folder import CheckpointFolder  # torch: see the package
        from sourcetrace.checkpoints.stated import StatedParameters

        stated = StatedParameters(self._optimizer, self._step_from)
        return CheckpointFolder(self._path, self._stages, self._learning_rates, stated)

    def _save(self, data: Sequence[Mapping[str, Any]]) -> None:
        import torch

        from sourcetrace.checkpoints.torch_file import SUFFIXES

        marker = self._path / _MARKER
        inside = [*self._path.glob("*"), *self._path.glob("*/*")]
        others = [path for path in inside if path.name.endswith((*SUFFIXES, ".safetensors"))]
        if others and not marker.exists():
            raise InputError(
                f"{str(self._path)!r} holds checkpoints of a training run that is not the "
                "demo's; they are left as they are. To audit them: kedro run --pipelines audit."
            )
        self._path.mkdir(parents=True, exist_ok=True)
        marker.touch()
        written = set()
        for checkpoint in data:
            target = self._path / f"step_{checkpoint['step']:06d}.pt"
            # Into an open file: a path's name, here the process's number, would be in the bytes.
            with replacing(target) as partial, partial.open("wb") as file:
                torch.save(dict(checkpoint), file)
            written.add(target)
        for old in set(self._path.glob("*.pt")) - written:
            old.unlink()

    def _exists(self) -> bool:
        return self._path.is_dir()

    def _describe(self) -> dict[str, Any]:
        return {"path": str(self._path)}
