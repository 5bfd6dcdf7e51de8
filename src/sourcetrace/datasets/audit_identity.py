"""What an audit is made of, as its ingest and today's parameters say."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kedro.io import AbstractDataset

from sourcetrace.audit.identity.made_of import MadeOf
from sourcetrace.datasets.optional import InFile
from sourcetrace.errors import InputError
from sourcetrace.files import write_json


class AuditIdentityDataset(InFile, AbstractDataset[Mapping[str, str], MadeOf]):
    """What an audit is made of: data and checkpoints as ingested, the rest as it is now.

    YAML:
        audit_identity:
          type: sourcetrace.datasets.AuditIdentityDataset
          filepath: data/02_intermediate/audit_identity.json
          parameters: {task: "${parameter:task}", attribution: "${parameter:attribution}"}

    Python:
        AuditIdentityDataset("audit_identity.json", parameters).save({"data": …, "checkpoints": …})
    """

    def __init__(self, filepath: str, parameters: Mapping[str, Any]) -> None:
        self._filepath = Path(filepath)
        self._parameters = parameters

    def _load(self) -> MadeOf:
        return read_identity(self._filepath, self._parameters)

    def _save(self, data: Mapping[str, str]) -> None:
        write_json(self._filepath, dict(data))


def read_identity(file: Path, parameters: Mapping[str, Any]) -> MadeOf:
    """Return what an audit is made of.

    Args:
        file: Of `audit_identity`.
        parameters: Of the project, by group.

    Raises:
        InputError: If the file is missing or damaged, or a parameter is wrong.
    """
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        data, checkpoints = content["data"], content["checkpoints"]
    except FileNotFoundError as error:
        raise InputError(
            f"Nothing was audited yet: there is no {file}. Run `kedro run --pipelines audit` first."
        ) from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{file}, which says what was audited, is damaged. Run `kedro run --pipelines audit`."
        ) from error
    return MadeOf.of(parameters, data=str(data), checkpoints=str(checkpoints))
