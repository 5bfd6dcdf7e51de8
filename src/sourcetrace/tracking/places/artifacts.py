"""Files that MLflow keeps for a run or a logged model, as a place to fetch from."""

import os
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from mlflow.entities import FileInfo
from mlflow.store.artifact.artifact_repo import ArtifactRepository
from mlflow.store.artifact.local_artifact_repo import LocalArtifactRepository

from sourcetrace.checkpoints.places.fetched import WEIGHT_SUFFIXES, RemoteFile, is_read
from sourcetrace.tracking.places.server import asking

_MODEL_FILE = "MLmodel"
_PICKLED_MODEL = "data/model.pth"
"""Of `mlflow.pytorch.log_model`: a whole model, which only executing it would read."""


def has_weights(artifact: FileInfo) -> bool:
    """Return whether a file may be a checkpoint, or a part of one."""
    return is_read(artifact.path) and str(artifact.path).endswith(WEIGHT_SUFFIXES)


def parent_of(path: str) -> str:
    """Return the folder that a path is in; empty at the top."""
    return path.rpartition("/")[0]


def artifacts_below(store: ArtifactRepository, path: str = "") -> list[FileInfo]:
    """Return what lies at a path of a store, the path itself where it is a file.

    What a logged model's folder pickles is left out.
    """
    found = list(_walk(store, path))
    if found or not path:
        return found
    beside = store.list_artifacts(parent_of(path) or None)
    return [one for one in beside if one.path == path]


def local_folder(store: ArtifactRepository) -> Path | None:
    """Return the folder of a store on this machine; None where it is elsewhere."""
    return Path(store.artifact_dir) if isinstance(store, LocalArtifactRepository) else None


@dataclass(frozen=True)
class Part:
    """Files of one store that are fetched.

    Attributes:
        store: It.
        artifacts: The files.
        base: Folder in the store that their names begin behind.
        into: Folder that they are fetched into; empty for the top.
        stamp: See `RemoteFile.stamp`.
    """

    store: ArtifactRepository
    artifacts: Sequence[FileInfo]
    base: str = ""
    into: str = ""
    stamp: str = ""

    def name_of(self, artifact: FileInfo) -> str:
        """Return the name that a file gets."""
        name = str(artifact.path).removeprefix(self.base).lstrip("/")
        return f"{self.into}/{name}" if self.into else name


class ArtifactSource:
    """See `sourcetrace.checkpoints.places.fetched.Source`."""

    def __init__(self, address: str, parts: Sequence[Part], *, is_file: bool = False) -> None:
        self.address = address
        self.is_file = is_file
        self._found = {
            part.name_of(artifact): (part, artifact)
            for part in parts
            for artifact in part.artifacts
            if is_read(artifact.path)
        }

    def files(self) -> Sequence[RemoteFile]:
        """Return what lies there."""
        return [
            RemoteFile(name, artifact.file_size or 0, part.stamp)
            for name, (part, artifact) in self._found.items()
        ]

    def download(self, name: str, target: Path) -> None:
        """Write one of the files."""
        part, artifact = self._found[name]
        # MLflow writes the artifact's whole path below a folder.
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=".mlflow-") as folder:
            with asking(self.address):
                store: Any = part.store  # untyped
                written = store.download_artifacts(artifact.path, dst_path=folder)
            os.replace(written, target)


def _walk(store: ArtifactRepository, path: str) -> Iterator[FileInfo]:
    listed = store.list_artifacts(path or None)
    is_model = any(PurePosixPath(one.path).name == _MODEL_FILE for one in listed)
    pickled = f"{path}/{_PICKLED_MODEL}".lstrip("/") if is_model else ""
    for one in listed:
        inside = _walk(store, one.path) if one.is_dir else [one]
        yield from (artifact for artifact in inside if artifact.path != pickled)
