"""A checkpoint's own files, and what is stated where they say nothing, as one."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from typing import Any

from torch import Tensor

from sourcetrace.checkpoints.formats.checkpoint_file import CheckpointFile
from sourcetrace.checkpoints.formats.usual_names import USUAL_NAMES, weights_of
from sourcetrace.checkpoints.nested import ODD
from sourcetrace.checkpoints.training.logged_rates import LoggedRates
from sourcetrace.checkpoints.training.optimizer_recognition import OptimizerState
from sourcetrace.checkpoints.training.optimizer_state import TrainingState
from sourcetrace.checkpoints.training.scheduler_state import SavedScheduler
from sourcetrace.checkpoints.training.second_moments import denominators_of
from sourcetrace.checkpoints.training.stated import Stated, StatedParameters
from sourcetrace.errors import InputError


class SavedCheckpoint:
    """What is known of one checkpoint.

    Each method raises InputError if a file cannot be read safely, or lacks what is asked.

    Attributes:
        files: Its own.

    Args:
        files: See the attribute.
        stated: What the parameters say where no file does.
    """

    def __init__(self, files: CheckpointFile, stated: StatedParameters) -> None:
        self.files = files
        self._stated = Stated(files.path, stated, files.beside)

    def weights(self) -> Mapping[str, Tensor]:
        """Return the model's state dict as it was saved."""
        with self._sound():
            if "model_state_dict" not in self.files.found:
                raise self._lacking(["model_state_dict"])
            name = f"{self.files.path.name}: model_state_dict"
            return weights_of(name, self.files.found["model_state_dict"])

    def training(self) -> TrainingState:
        """Return what is known of the training."""
        with self._sound():
            training = TrainingState.of(self.files.path, *self._known)
        if self.files.logged is None:
            return training
        rates, steps = self.files.logged
        if "optimizer_state_dict" not in self.files.found and rates:
            # The rate that is stated is of no step in particular.
            training = training.at_rate(rates[max(rates)], self.files.sources["step"])
        scheduler = self.files.found.get("lr_scheduler_state_dict")
        # Of transformers' schedules the constant one alone has nothing to save.
        constant = isinstance(scheduler, Mapping) and scheduler.get("lr_lambdas") == [None]
        return replace(training, logged=LoggedRates(rates, steps, constant))

    def denominators(self, names: Mapping[int, Sequence[str]]) -> dict[str, Tensor]:
        """Return parameter -> `training.denominators`, infinite where no gradient ever came.

        Args:
            names: Place in the optimiser's state -> the parameter's names.
        """
        path = self.files.path
        with self._sound():
            content, _ = self._known
            if content.get("second_moments") == "none":
                raise InputError(
                    f"{path.name} has lost Adam's second moments (second_moments: none): how far "
                    "a gradient moved each parameter is not known. Set attribution.method to one "
                    "that does not follow the optimiser, such as influence."
                )
            return denominators_of(path, content["optimizer_state_dict"], names, self.weights)

    @contextmanager
    def _sound(self) -> Iterator[None]:
        """Refuse content that no training saves, whatever is odd in it."""
        try:
            yield
        except InputError:
            raise
        except ODD as error:
            raise InputError(
                f"{self.files.path.name} holds what no training saves ({error!r}): it is damaged, "
                "or was changed. Save model.state_dict(), optimizer.state_dict() and step as they "
                "are."
            ) from error

    @cached_property
    def _known(self) -> tuple[Mapping[str, Any], Mapping[str, str]]:
        """What `TrainingState.of` takes: its own files' content first, then what is stated."""
        said, found = self._stated, self.files.found
        content = {**said.content, **found}
        beside = said.content.keys() - found.keys() - {"learning_rates"}
        sources = {**dict.fromkeys(beside, said.json.name), **self.files.sources}
        if said.kind is not None and not isinstance(content.get("optimizer"), str):
            content["optimizer"], content["optimizer_from"] = said.kind
        if "step" not in content and (inferred := self._inferred_step(content)):
            content["step"], sources["step"] = inferred
        if "optimizer_state_dict" not in content and said.has_rates:
            state, origins = said.optimizer(content.get("step", 0), self.files.moments)
            content, sources = {**content, **state}, {**sources, **origins}
        lacking = [ours for ours in ("optimizer_state_dict", "step") if ours not in content]
        if lacking:
            raise self._lacking(lacking)
        return content, sources

    def _inferred_step(self, content: Mapping[str, Any]) -> tuple[int, str] | None:
        """Return the step and where it is from, if anything but a step says it."""
        scheduler = content.get("lr_scheduler_state_dict")
        count = SavedScheduler(scheduler, ()).epochs if isinstance(scheduler, Mapping) else None
        state = content.get("optimizer_state_dict")
        own = 0 if state is None else OptimizerState.of(self.files.path, state).steps
        said = self._stated.step(count, own or None)
        return said or ((own, "the optimiser's own count") if own else None)

    def _lacking(self, names: Sequence[str]) -> InputError:
        json = self._stated.json.relative_to(self.files.path.parent).as_posix()
        remedies = {
            "model_state_dict": "Save model.state_dict() in it.",
            "optimizer_state_dict": (
                f"{self.files.save_optimizer} Where that is lost, set checkpoints.optimizer, such "
                "as {name: SGD, learning_rate: 0.1, momentum: 0.9, weight_decay: 0.0}, or write "
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
            f"{self.files.path.name} lacks {'; '.join(lacks)}. Found: "
            f"{', '.join(map(str, self.files.found))[:200] or 'no mapping'}. "
            f"{' '.join(remedies[ours] for ours in names)}"
        )
