"""A folder of ordinary PyTorch checkpoints, read without executing anything in them."""

import hashlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor, nn

from sourcetrace.checkpoints.formats.checkpoint_file import files_beside, name_of, read_beside
from sourcetrace.checkpoints.layout import Layout, kind_of
from sourcetrace.checkpoints.parameter_names import ModelParameters
from sourcetrace.checkpoints.saved_checkpoint import SavedCheckpoint
from sourcetrace.checkpoints.training.learning_rates import read_learning_rates
from sourcetrace.checkpoints.training.optimizer_state import TrainingState
from sourcetrace.checkpoints.training.stated import StatedParameters
from sourcetrace.checkpoints.weights import check_weights
from sourcetrace.core.training.schedules import KnownRates
from sourcetrace.core.training.segments import CheckpointRecord
from sourcetrace.errors import InputError
from sourcetrace.formats import format_names

logger = logging.getLogger(__name__)

KEPT_BYTES = 2**26
"""Of state dicts, kept in memory by a folder; every block of examples visits all checkpoints. What
is larger is read again, in less time than a block of examples takes."""


@dataclass(frozen=True)
class Checkpoint:
    """One loaded checkpoint.

    Attributes:
        record: Id, step, stage and optimiser settings; its groups have no names yet.
        training: What the file says of the training.
        file: Name of its file, or folder of files, with the run's sub-folder where there are
            several.
        sha256: Of the bytes that were loaded, an optimiser's file beside it included.
        bytes: Size of its files.
        state_dict: The model's.
    """

    record: CheckpointRecord
    training: TrainingState
    file: str
    sha256: str
    bytes: int
    state_dict: Mapping[str, Tensor]


class CheckpointFolder:
    """The checkpoints of a folder, in the natural order of their names, run after run.

    Attributes:
        stage_ends: Stage -> its last step, as the parameters say.
        at_most: How many checkpoints of a run are audited; None for all.

    Args:
        folder: The folder; names are relative to it.
        stages: See `stage_ends`.
        learning_rates: File of the steps' learning rates.
        listed: See `Layout`.
    """

    def __init__(
        self,
        folder: Path,
        stages: Mapping[str, int] | None = None,
        learning_rates: Path | None = None,
        stated: StatedParameters | None = None,
        listed: Sequence[Path] = (),
        at_most: int | None = None,
    ) -> None:
        self._folder = folder
        self._stated = replace(stated or StatedParameters(), folder=folder)
        self.stage_ends = dict(stages or {})
        self.at_most = at_most
        self._layout = Layout(folder, self.stage_ends, listed)
        self._learning_rates = learning_rates
        self._weights: dict[str, Mapping[str, Tensor]] = {}
        self._said_beside: set[str] = set()

    def files(self) -> list[Path]:
        """Return the checkpoint files, as `Layout.files` finds them.

        Raises:
            InputError: As that, or if two are called alike but for their endings.
        """
        files = self._layout.files()
        by_id = {self.id_of(file): file for file in files}
        for file in files:
            if by_id[self.id_of(file)] != file:
                raise InputError(
                    f"checkpoints.path: {file.name} and {by_id[self.id_of(file)].name} are called "
                    "alike but for their endings, and one audit knows a checkpoint by the rest. "
                    "Rename or remove one."
                )
        return files

    def digests(self, known: Mapping[str, str] | None = None) -> dict[str, str]:
        """Return name -> SHA-256 of every checkpoint, and of the JSON beside it where it has one.

        Args:
            known: Name -> digest of checkpoints that were read already, and no others count;
                without it, every file is read.

        Raises:
            InputError: If there are no checkpoints.
        """
        found = dict(known or {}) or self.file_digests()
        for name in list(found):
            path = self._path_of(name)
            content = read_beside(path, self._folder)
            if content is not None:
                place = files_beside(path)[0].relative_to(self._folder).as_posix()
                found[place] = hashlib.sha256(content).hexdigest()
        return found

    def file_digests(self) -> dict[str, str]:
        """Return name -> SHA-256 of every checkpoint, as the manifest has it.

        Raises:
            InputError: If there are no checkpoints.
        """
        return {
            file.relative_to(self._folder).as_posix(): self._open(file).files.sha256
            for file in self.files()
        }

    def load(self, file: Path, model: nn.Module | None) -> Checkpoint:
        """Read one checkpoint, its weights under every name that the model has for them.

        Args:
            file: The checkpoint.
            model: The model; None leaves the weights out.

        Raises:
            InputError: If it cannot be read safely, does not say how it was trained, or its weights
                do not fit the model or are not finite.
        """
        found = self._open(file)
        name = file.relative_to(self._folder)
        state_dict = {} if model is None else self._filled(found.weights(), ModelParameters(model))
        training = found.training()
        self._check_accepted(file, training)
        if model is not None:
            check_weights(name.as_posix(), state_dict, model.state_dict())
        groups = tuple(group.settings for group in training.groups)
        step, stage, sources = self._placed(training, file)
        training = replace(training, sources={**training.sources, **sources})
        record = CheckpointRecord(
            id=self.id_of(file),
            step=step,
            stage=stage,
            learning_rate=groups[0].learning_rate,
            momentum=groups[0].momentum,
            weight_decay=groups[0].weight_decay,
            optimizer=training.optimizer,
            groups=groups,
            run=self._layout.run_of(file),
        )
        files = found.files
        return Checkpoint(record, training, name.as_posix(), files.sha256, files.size, state_dict)

    def _filled(
        self, weights: Mapping[str, Tensor], parameters: ModelParameters
    ) -> dict[str, Tensor]:
        beside = parameters.beside(weights)
        if not self._said_beside.issuperset(beside):
            self._said_beside.update(beside)
            logger.info(
                "Beside the model's weights, the checkpoints have %s: left out",
                format_names(beside),
            )
        return parameters.fill(weights)

    def id_of(self, file: Path) -> str:
        """Return the id of a file's checkpoint: its name, with the run's before it."""
        return file.relative_to(self._folder).with_name(name_of(file)).as_posix()

    def learning_rates(self, last_step: int) -> KnownRates | None:
        """Return the learning rates of the file that the parameters name, if they name one."""
        if self._learning_rates is None:
            return None
        return read_learning_rates(self._learning_rates, last_step=last_step)

    def denominators(
        self, file_name: str, sha256: str, names: Mapping[int, Sequence[str]]
    ) -> dict[str, Tensor]:
        """Return `SavedCheckpoint.denominators` of a file that the manifest describes.

        Args:
            file_name: Of the checkpoint.
            sha256: What the manifest says of it.
            names: Place in the optimiser's state -> the parameter's names.

        Raises:
            InputError: If the file has changed since the manifest was written, or the second
                moments are missing or not finite.
        """
        return self._opened(file_name, sha256).denominators(names)

    def weights(self, file_name: str, sha256: str, model: nn.Module) -> Mapping[str, Tensor]:
        """Return the weights of a file that the manifest describes, as `load` does.

        Raises:
            InputError: If the file has changed since the manifest was written.
        """
        # Taken out and put back: the first is the one that was not used for longest.
        kept = self._weights.pop(sha256, None)
        if kept is None:
            kept = ModelParameters(model).fill(self._opened(file_name, sha256).weights())
        self._weights[sha256] = kept
        while sum(map(_size, self._weights.values())) > KEPT_BYTES:
            del self._weights[next(iter(self._weights))]
        return kept

    def _opened(self, file_name: str, sha256: str) -> SavedCheckpoint:
        found = self._open(self._path_of(file_name))
        if found.files.sha256 != sha256:
            raise InputError(
                f"{file_name} has changed since checkpoint_ingest described it. "
                "Run the audit from its first stage again."
            )
        return found

    def _open(self, path: Path) -> SavedCheckpoint:
        kind = kind_of(path)
        if kind is None:
            raise InputError(
                f"{path.relative_to(self._folder).as_posix()} is gone since checkpoint_ingest "
                "described it. Put it back, or run the audit from its first stage again."
            )
        return SavedCheckpoint(kind(path, self._folder), self._stated)

    def _path_of(self, file_name: str) -> Path:
        # A manifest that was tampered with leads to no file outside the folder.
        inside = (part for part in Path(file_name).parts if part not in ("/", ".."))
        return self._folder.joinpath(*inside)

    def _check_accepted(self, file: Path, training: TrainingState) -> None:
        if training.approximation and training.optimizer not in self._stated.accept:
            raise InputError(
                f"{file.name} was trained by {training.optimizer}, whose steps no diagonal "
                f"preconditioner describes. {training.approximation}: to audit it so, set "
                f"checkpoints.accept to [{training.optimizer}]. How good that is was not measured."
            )

    def _placed(self, training: TrainingState, file: Path) -> tuple[int, str, dict[str, str]]:
        """Return the step, counted over the whole training, the stage, and their sources."""
        stage = self._layout.own_stage(file)
        if stage is None:
            if training.stage is not None:
                return training.step, training.stage, {}
            source = "checkpoints.stages" if self.stage_ends else "none is named"
            return training.step, self._stage_of(training.step, file), {"stage": source}
        end = self.stage_ends[stage]
        step = training.step + max(
            (one for one in self.stage_ends.values() if one < end), default=0
        )
        if step > end:
            raise InputError(
                f"{stage}/{file.name}: step {training.step} of its stage, {step} over the whole "
                f"training, lies behind the stage's last step in checkpoints.stages, {end}. "
                "Correct the last steps: they count over all stages."
            )
        count = f"{training.sources['step']}, after the stages before in checkpoints.stages"
        return step, stage, {"step": count, "stage": "folder name"}

    def _stage_of(self, step: int, file: Path) -> str:
        if not self.stage_ends:
            return "training"
        for stage, last_step in sorted(self.stage_ends.items(), key=lambda item: item[1]):
            if step <= last_step:
                return stage
        raise InputError(
            f"{file.name}: step {step} lies behind the last step of every stage in "
            f"checkpoints.stages ({self.stage_ends}). Correct the last steps."
        )


def _size(state_dict: Mapping[str, Tensor]) -> int:
    """Return the bytes of a state dict."""
    return sum(one.numel() * one.element_size() for one in state_dict.values())
