"""What data sets of one file have in common."""

from pathlib import Path
from typing import Any


class InFile:
    """A file that may not be there yet; hooks and MLflow find it by the attribute's name."""

    _filepath: Path

    def _exists(self) -> bool:
        return self._filepath.exists()

    def _describe(self) -> dict[str, Any]:
        return {"filepath": str(self._filepath)}
