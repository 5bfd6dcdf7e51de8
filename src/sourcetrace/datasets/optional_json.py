"""A JSON file that may be there or not."""

from pathlib import Path
from typing import Any

from kedro.io import AbstractDataset

from sourcetrace.errors import InputError
from sourcetrace.files import read_optional_json


class OptionalJSONDataset(AbstractDataset[Any, Any]):
    """A JSON file to read; None where there is none, or no path is given.

    YAML:
        gate_baseline:
          type: sourcetrace.datasets.OptionalJSONDataset
          filepath: ${parameter:gate.baseline}

    Python:
        OptionalJSONDataset("approved/gate.json").load()
    """

    def __init__(self, filepath: str | None) -> None:
        self._filepath = None if filepath is None else Path(filepath)

    def _load(self) -> Any:
        return read_optional_json(self._filepath)

    def _save(self, data: Any) -> None:
        raise InputError(
            f"{self._filepath} is only read: somebody approves it. Copy the file there yourself."
        )

    def _exists(self) -> bool:
        return self._filepath is not None and self._filepath.exists()

    def _describe(self) -> dict[str, Any]:
        return {"filepath": str(self._filepath)}
