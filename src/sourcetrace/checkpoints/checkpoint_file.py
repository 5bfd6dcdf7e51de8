"""What the formats of checkpoints have in common."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from functools import cached_property
from os.path import isdir, isfile
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor

from sourcetrace.checkpoints.optimizer_state import TrainingState
from sourcetrace.checkpoints.scheduler_state import SavedScheduler
from sourcetrace.checkpoints.second_moments import denominators_of
from sourcetrace.checkpoints.stated import Stated, StatedParameters, files_beside
from sourcetrace.checkpoints.tensor_bytes import weights_of
from sourcetrace.checkpoints.usual_names import USUAL_NAMES
from sourcetrace.errors import InputError


class CheckpointFile(ABC):
    """A checkpoint of one format, its files read once. A new format is one more such class.

    Each method raises InputError if the file cannot be read safely, or lacks what is asked.

    Attributes:
        save_optimizer: How a training saves its optimiser in this format.
        path: The file, or the folder of a format that writes several.
        size: Of its files, in bytes.
        sha256: Of all their bytes, one file after the other.
    """

    save_optimizer: ClassVar[str] = "Save optimizer.state_dict() in it."

    def __init__(self, path: Path, stated: StatedParameters | None = None) -> None:
        """Read its files.

        Args:
            path: The file, or the folder.
            stated: What the parameters say where it does not.
        """
        self.path = path
        self._stated = Stated(path, stated or StatedParameters())
        moments = self._stated.moments
        files = [*self.files_of(path), *([moments] if isfile(moments) else [])]
        folder = path if isdir(path) else path.parent
        try:
            self._bytes = {file.relative_to(folder).as_posix(): file.read_bytes() for file in files}
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
    def settings_beside(path: Path) -> Path:
        """Return the JSON file that may say how a checkpoint was trained, there or not."""
        return files_beside(path)[0]

    @property
    @abstractmethod
    def found(self) -> Mapping[str, Any]:
        """What its own files say, by the names of `USUAL_NAMES`; and what is optional."""

    @property
    def content(self) -> Mapping[str, Any]:
        """What is said of it: `optimizer_state_dict` as torch has it, `step`, and what is optional.

        See `TrainingState.of`.
        """
        return self._completed[0]

    @property
    def own_sources(self) -> Mapping[str, str]:
        """As `sources`, of what its own files say."""
        return {}

    @property
    def sources(self) -> Mapping[str, str]:
        """Where values come from, as `TrainingState.sources`, other than its `of` takes it."""
        return {**self.own_sources, **self._completed[1]}

    def weights(self) -> Mapping[str, Tensor]:
        """Return the model's state dict as it was saved."""
        if "model_state_dict" not in self.found:
            raise self._lacking(["model_state_dict"])
        return weights_of(f"{self.path.name}: model_state_dict", self.found["model_state_dict"])

    def training(self) -> TrainingState:
        """Return what it says of the training."""
        return TrainingState.of(self.path, self.content, self.sources)

    def denominators(self, names: Mapping[int, Sequence[str]]) -> dict[str, Tensor]:
        """Return parameter -> `checkpoints.denominators`, infinite where no gradient ever came.

        Args:
            names: Place in the optimiser's state -> the parameter's names.
        """
        if self.content.get("second_moments") == "none":
            raise InputError(
                f"{self.path.name} has lost Adam's second moments (second_moments: none): how far "
                "a gradient moved each parameter is not known. Set attribution.method to one that "
                "does not follow the optimiser, such as influence."
            )
        state = self.content["optimizer_state_dict"]
        return denominators_of(self.path, state, names, self.weights)

    @cached_property
    def _completed(self) -> tuple[Mapping[str, Any], Mapping[str, str]]:
        """What its files say with what is stated beside them, and where that is from."""
        json = self._stated.json.name
        said = self._stated.content
        content = {**said, **self.found}
        named = self._stated.named
        if named is not None and not isinstance(content.get("optimizer"), str):
            content["optimizer"] = named.known_name
            content["optimizer_from"] = "checkpoints.optimizer"
        sources = dict.fromkeys(said.keys() - self.found.keys() - {"learning_rates"}, json)
        if "step" not in content:
            step, source = self._inferred_step(content)
            if step is not None:
                content["step"], sources["step"] = step, source
        if "optimizer_state_dict" not in content:
            moments = self._bytes.get(self._stated.moments.name)
            stated = self._stated.optimizer(content.get("step", 0), moments)
            if stated is not None:
                content |= stated[0]
                sources |= stated[1]
        lacking = [ours for ours in ("optimizer_state_dict", "step") if ours not in content]
        if lacking:
            raise self._lacking(lacking)
        return content, sources

    def _inferred_step(self, content: Mapping[str, Any]) -> tuple[int | None, str]:
        """Return the step and where it is from, if anything but a step says it."""
        scheduler = content.get("lr_scheduler_state_dict")
        count = SavedScheduler(scheduler, ()).epochs if isinstance(scheduler, Mapping) else None
        return self._stated.step(count) or (
            _own_count(content.get("optimizer_state_dict")),
            "the optimiser's own count",
        )

    def _lacking(self, names: Sequence[str]) -> InputError:
        json = self._stated.json.relative_to(self.path.parent).as_posix()
        remedies = {
            "model_state_dict": "Save model.state_dict() in it.",
            "optimizer_state_dict": (
                f"{self.save_optimizer} Where that is lost, set checkpoints.optimizer, such as "
                "{name: SGD, learning_rate: 0.1, momentum: 0.9, weight_decay: 0.0}, or write "
                f'{json}: {{"learning_rate": 0.1, "momentum": 0.9}}.'
            ),
            "step": (
                f"Save the number of optimiser steps so far in it. Where that is lost, write "
                f'{json}: {{"step": 400}}; or set checkpoints.step_from: name, if the number in '
                "its name counts optimiser steps, or scheduler, if its scheduler was stepped after "
                "each of them."
            ),
        }
        lacks = (
            f"{ours} (or {', '.join(other for other in USUAL_NAMES[ours] if other != ours)})"
            for ours in names
        )
        return InputError(
            f"{self.path.name} lacks {'; '.join(lacks)}. Found: "
            f"{', '.join(map(str, self.found))[:200] or 'no mapping'}. "
            f"{' '.join(remedies[ours] for ours in names)}"
        )


def _own_count(state: Any) -> int | None:
    """Return how many steps an optimiser counted, if it did."""
    entries = state.get("state") if isinstance(state, Mapping) else None
    if not isinstance(entries, Mapping):
        return None
    counts = [one.get("step") for one in entries.values() if isinstance(one, Mapping)]
    try:
        return max((int(one) for one in counts if one is not None), default=None)
    except (ArithmeticError, RuntimeError, TypeError, ValueError):  # no number
        return None
