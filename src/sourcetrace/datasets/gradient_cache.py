"""Where gradients are kept between the stages: in memory, on disk, or nowhere."""

import hashlib
import re
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Literal, NoReturn

from kedro.io import AbstractDataset

if TYPE_CHECKING:
    from torch import Tensor

    from sourcetrace.datasets.tensor_file import TensorFile

Policy = Literal["memory", "disk", "recompute"]

_OURS = re.compile(r"[0-9a-f]{32}\.safetensors(\.\d+\.partial)?")


class GradientCache:
    """A memo of blocks of gradients; what it does not hold is computed again.

    Attributes:
        policy: Where `put` keeps blocks.
    """

    def __init__(self, folder: Path) -> None:
        self.policy: Policy = "recompute"
        self._root = folder
        self._folder = folder
        self._memory: dict[str, Mapping[str, Tensor]] = {}
        self._identity = ""

    @property
    def keeps(self) -> bool:
        """Whether anything that is put can come back."""
        return self.policy != "recompute"

    def open(self, identity: str) -> None:
        """Use the blocks computed from the inputs that `identity` stands for, and no others."""
        if identity != self._identity:
            self._memory.clear()
        self._identity = identity
        self._folder = self._root / hashlib.sha256(identity.encode()).hexdigest()[:16]

    @property
    def folder(self) -> Path:
        """Where blocks are kept on disk."""
        return self._root

    @property
    def free_bytes(self) -> int:
        """What is free on that disk."""
        return shutil.disk_usage(self.existing_folder).free

    def disk_seconds(self, tensors: "Mapping[str, Tensor]") -> float:
        """Return what the disk takes to keep the tensors: written once, read by two stages."""
        from sourcetrace.datasets.tensor_file import TensorFile  # torch: see the package

        with TemporaryDirectory(dir=self.existing_folder) as folder:
            file = TensorFile(Path(folder) / "timed.safetensors", sealed="timed")
            start = time.perf_counter()
            file.write(tensors)
            for _ in range(2):
                file.read()
            return time.perf_counter() - start

    @property
    def existing_folder(self) -> Path:
        """The folder, or the nearest above it that is there."""
        folder = self._root.absolute()
        return next(one for one in (folder, *folder.parents) if one.is_dir())

    def forget(self) -> None:
        """Give up what is kept in memory."""
        self._memory.clear()

    def restart(self, policy: Policy) -> None:
        """Keep blocks as `policy` says, and forget all others, those of earlier inputs too."""
        self.policy = policy
        if policy != "memory":
            self._memory.clear()
        # By name: what else lies in the folder is not ours.
        for folder in self._root.glob("*"):
            ours = re.fullmatch("[0-9a-f]{16}", folder.name) and folder.is_dir()
            if ours and not (policy == "disk" and folder == self._folder):
                for file in folder.iterdir():
                    if _OURS.fullmatch(file.name):
                        file.unlink()
                if not any(folder.iterdir()):
                    folder.rmdir()

    def get(self, key: str) -> "Mapping[str, Tensor] | None":
        """Return the tensors under `key`, or None if they are not kept."""
        kept = self._memory.get(key)
        if kept is not None:
            return kept
        file = self._file(key)
        return file.read() if file.path.exists() else None

    def put(self, key: str, tensors: "Mapping[str, Tensor]") -> None:
        """Keep the tensors as the policy says."""
        if self.policy == "memory":
            # As they would come back from disk: contiguous, and no view into a larger batch.
            self._memory[key] = {name: tensor.contiguous() for name, tensor in tensors.items()}
        elif self.policy == "disk":
            self._file(key).write(tensors)

    def _file(self, key: str) -> "TensorFile":
        from sourcetrace.datasets.tensor_file import TensorFile  # torch: see the package

        # Hashed: a checkpoint's name may hold what a file's name may not.
        name = f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.safetensors"
        return TensorFile(self._folder / name, sealed=f"{self._identity}\0{key}")


class GradientCacheDataset(AbstractDataset[NoReturn, GradientCache]):
    """Hands the same cache to every stage of a run; on disk it outlives the run.

    YAML:
        gradient_cache:
          type: sourcetrace.datasets.GradientCacheDataset
          path: data/04_feature/gradients

    Python:
        GradientCacheDataset(path="gradients").load()
    """

    def __init__(self, path: str) -> None:
        self._cache = GradientCache(Path(path))
        self._path = path

    def _load(self) -> GradientCache:
        return self._cache

    def _save(self, data: NoReturn) -> None:
        raise NotImplementedError("The stages fill the cache themselves.")

    def _describe(self) -> dict[str, Any]:
        return {"path": self._path}
