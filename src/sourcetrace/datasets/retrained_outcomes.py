"""How queries came out after each retraining: a unit of work each, with one small file."""

from pathlib import Path
from typing import Any, NoReturn

from kedro.io import AbstractDataset

from sourcetrace.work.ledger import Ledger


class RetrainedOutcomesDataset(AbstractDataset[NoReturn, Ledger]):
    """Hands out the ledger of retrainings, which outlive the run and the audit.

    YAML:
        retrained_outcomes:
          type: sourcetrace.datasets.RetrainedOutcomesDataset
          path: data/07_model_output/retrained_outcomes

    Python:
        RetrainedOutcomesDataset(path="retrained_outcomes").load().refresh()
    """

    def __init__(self, path: str) -> None:
        self._path = path

    def _load(self) -> Ledger:
        return Ledger(Path(self._path).absolute())  # a task may change the working directory

    def _save(self, data: NoReturn) -> None:
        raise NotImplementedError("Retrainings fill the folder themselves.")

    def _describe(self) -> dict[str, Any]:
        return {"path": self._path}
