"""Ordinary PyTorch checkpoints, wherever they lie, read without executing anything in them.

What an address means, see `sourcetrace.tracking.places`; what sub-folders mean, see
`sourcetrace.checkpoints.folder`.
"""

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from kedro.io import AbstractDataset

from sourcetrace.checkpoints.places.addresses import is_local, local_path
from sourcetrace.errors import InputError
from sourcetrace.files import replacing
from sourcetrace.parameters import CheckpointParameters
from sourcetrace.redaction import hide_credentials
from sourcetrace.validation import validated

if TYPE_CHECKING:
    from sourcetrace.checkpoints.folder import CheckpointFolder

_MARKER = ".saved-by-sourcetrace"
"""File in a folder whose checkpoints may be replaced."""


class CheckpointsDataset(AbstractDataset[Sequence[Mapping[str, Any]], "CheckpointFolder"]):
    """Reads checkpoints of a folder, a file or an address; writes `.pt` into a folder.

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
          accept: [Lion]   # optimisers whose steps may be approximated
          at_most: 12   # checkpoints that are audited, of more

        remote_checkpoints:
          type: sourcetrace.datasets.CheckpointsDataset
          path: s3://bucket/run/checkpoints   # or runs:/<run>/checkpoints, models:/churn@candidate
          cache: data/01_raw/fetched_checkpoints

    Python:
        CheckpointsDataset(path="checkpoints").load().files()
    """

    def __init__(
        self,
        path: str | Sequence[str],
        stages: Mapping[str, int] | None = None,
        learning_rates: str | None = None,
        optimizer: Mapping[str, Any] | None = None,
        step_from: Literal["name", "scheduler"] | None = None,
        cache: str | None = None,
        storage_options: Mapping[str, Any] | None = None,
        accept: Sequence[str] | None = None,
        at_most: int | None = None,
    ) -> None:
        self._named = {
            "path": path,
            "stages": stages,
            "learning_rates": learning_rates,
            "optimizer": optimizer,
            "step_from": step_from,
            "cache": cache,
            "storage_options": storage_options,
            "accept": accept,
            "at_most": at_most,
        }

    def _load(self) -> "CheckpointFolder":
        from sourcetrace.tracking.places.local import open_local  # torch: see the package

        return open_local(self._here)

    @cached_property
    def _here(self) -> CheckpointParameters:
        """The parameters with local paths: a run, in which every stage loads, fetches once."""
        from sourcetrace.tracking.places.local import fetch_checkpoints

        return fetch_checkpoints(validated(CheckpointParameters, self._named, name="checkpoints"))

    def _save(self, data: Sequence[Mapping[str, Any]]) -> None:
        import torch

        from sourcetrace.checkpoints.formats.torch_file import SUFFIXES

        folder = self._folder
        if folder is None:
            raise InputError(
                f"checkpoints.path: {self._shown} is no folder on this machine, which the demo "
                "could write its checkpoints to. To audit what is there: kedro run --pipelines "
                "audit."
            )
        marker = folder / _MARKER
        inside = [*folder.glob("*"), *folder.glob("*/*")]
        others = [path for path in inside if path.name.endswith((*SUFFIXES, ".safetensors"))]
        if others and not marker.exists():
            raise InputError(
                f"{str(folder)!r} holds checkpoints of a training run that is not the "
                "demo's; they are left as they are. To audit them: kedro run --pipelines audit."
            )
        folder.mkdir(parents=True, exist_ok=True)
        marker.touch()
        written = set()
        for checkpoint in data:
            target = folder / f"step_{checkpoint['step']:06d}.pt"
            # Into an open file: a path's name, here the process's number, would be in the bytes.
            with replacing(target) as partial, partial.open("wb") as file:
                torch.save(dict(checkpoint), file)
            written.add(target)
        for old in set(folder.glob("*.pt")) - written:
            old.unlink()

    def _exists(self) -> bool:
        return self._folder is not None and self._folder.is_dir()

    @property
    def _folder(self) -> Path | None:
        """The folder on this machine; None where it is a list, an address or nothing."""
        path = self._named["path"]
        return local_path(path) if isinstance(path, str) and is_local(path) else None

    @property
    def _shown(self) -> str:
        return hide_credentials(str(self._named["path"]))

    def _describe(self) -> dict[str, Any]:
        return {"path": self._shown}
