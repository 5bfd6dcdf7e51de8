"""How queries came out after each retraining: one small file a retraining."""

import json
import logging
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NoReturn

from kedro.io import AbstractDataset

from sourcetrace.errors import InputError
from sourcetrace.files import replacing

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class RetrainedOutcome:
    """What one retraining gave.

    Attributes:
        seconds: It took, data and queries included.
        measurements: Of the queries, in their order.
        predicted_labels: Of the queries; None where the task describes none.
        losses: Of the queries; None of what an earlier version measured.
    """

    seconds: float
    measurements: list[float]
    predicted_labels: list[str] | None
    losses: list[float] | None = None


class RetrainedOutcomes:
    """Outcomes by key; processes may put different keys at the same time."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.absolute()  # a task may change the working directory

    def __getitem__(self, key: str) -> RetrainedOutcome:
        """Return an outcome.

        Raises:
            InputError: If there is none.
        """
        try:
            content = self._file(key).read_text(encoding="utf-8")
        except FileNotFoundError as error:
            raise InputError(f"{self._file(key)} is gone. Run the verification again.") from error
        return RetrainedOutcome(**json.loads(content))

    def __contains__(self, key: str) -> bool:
        """Return whether there is a readable outcome under `key`."""
        try:
            return bool(self[key])
        except InputError:
            return False
        except (ValueError, TypeError):
            logger.warning("%s is damaged; its retraining is done again", self._file(key))
            return False

    def put(self, key: str, outcome: RetrainedOutcome) -> None:
        """Keep an outcome; a reader sees the whole file or none.

        Raises:
            ValueError: If a measurement is NaN or infinite.
        """
        with replacing(self._file(key)) as partial:
            partial.write_text(json.dumps(asdict(outcome), allow_nan=False), encoding="utf-8")

    def _file(self, key: str) -> Path:
        return self.folder / f"{key}.json"


class RetrainedOutcomesDataset(AbstractDataset[NoReturn, RetrainedOutcomes]):
    """Hands out the folder in which retrained outcomes outlive the run.

    YAML:
        retrained_outcomes:
          type: sourcetrace.datasets.RetrainedOutcomesDataset
          path: data/07_model_output/retrained_outcomes

    Python:
        "0" * 64 in RetrainedOutcomesDataset(path="retrained_outcomes").load()
    """

    def __init__(self, path: str) -> None:
        self._path = path

    def _load(self) -> RetrainedOutcomes:
        return RetrainedOutcomes(Path(self._path))

    def _save(self, data: NoReturn) -> None:
        raise NotImplementedError("Retrainings fill the folder themselves.")

    def _describe(self) -> dict[str, Any]:
        return {"path": self._path}
