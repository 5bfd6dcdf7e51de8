"""A JSON file that may be there or not."""

import json
from pathlib import Path
from typing import Any

from kedro.io import AbstractDataset

from sourcetrace.errors import InputError
from sourcetrace.files import read_optional_json, replacing


class OptionalJSONDataset(AbstractDataset[Any, Any]):
    """A JSON file; None where there is none, or no path is given.

    YAML:
        gate_baseline:
          type: sourcetrace.datasets.OptionalJSONDataset
          filepath: ${parameter:gate.baseline}
          read_only: true

    Python:
        OptionalJSONDataset("approved/gate.json").load()
    """

    def __init__(self, filepath: str | None, *, read_only: bool = False) -> None:
        self._filepath = None if filepath is None else Path(filepath)
        self._read_only = read_only

    def _load(self) -> Any:
        return read_optional_json(self._filepath)

    def _save(self, data: Any) -> None:
        if self._filepath is None or self._read_only:
            raise InputError(
                f"{self._filepath} is only read: somebody approves it. Copy the file there "
                "yourself."
            )
        with replacing(self._filepath) as partial:
            partial.write_text(json.dumps(data, indent=2, ensure_ascii=False), encoding="utf-8")

    def _exists(self) -> bool:
        return self._filepath is not None and self._filepath.exists()

    def _describe(self) -> dict[str, Any]:
        return {"filepath": str(self._filepath)}
