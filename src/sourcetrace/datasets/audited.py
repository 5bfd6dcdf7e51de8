"""Results of an audit that say what they were made of, and are checked when they are loaded."""

import json
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from kedro.io import AbstractDataset
from kedro.io.core import parse_dataset_definition
from pydantic import BaseModel

from sourcetrace.audit.identity.made_of import MadeOf
from sourcetrace.errors import InputError
from sourcetrace.files import file_digest, replacing
from sourcetrace.work.ledger import KeptFile

_ENDING = ".made_of.json"


class _Record(BaseModel):
    """What lies beside a result.

    Attributes:
        made_of: What it was made of; None where that is not known.
        files: Name -> SHA-256.
    """

    made_of: MadeOf | None
    files: dict[str, str]


class AuditIdentityDataset(AbstractDataset[Mapping[str, str], MadeOf]):
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
        return _read_identity(self._filepath, self._parameters)

    def _save(self, data: Mapping[str, str]) -> None:
        with replacing(self._filepath) as partial:
            partial.write_text(json.dumps(dict(data)), encoding="utf-8")

    def _exists(self) -> bool:
        return self._filepath.exists()

    def _describe(self) -> dict[str, Any]:
        return {"filepath": str(self._filepath)}


class AuditedDataset(AbstractDataset[Any, Any]):
    """Another data set's file, or its folder of `part-*.parquet`, with what it was made of.

    Beside it lies `<name>.made_of.json`, written last: what the result was made of, and the digest
    of every file. A load checks the files' bytes, and that all that the stage depends on is still
    so. A folder is complete when the node that fills it confirms it.

    Args:
        dataset: The data set, as in a catalog.
        stage: Which makes it.
        identity: File of `audit_identity`; without it, only the bytes are checked, and the file may
            be missing.
        parameters: Of the project, by group.

    YAML:
        train_table:
          type: sourcetrace.datasets.AuditedDataset
          stage: checkpoint_ingest
          identity: data/02_intermediate/audit_identity.json
          parameters: {task: "${parameter:task}", attribution: "${parameter:attribution}"}
          dataset: {type: polars.EagerPolarsDataset, file_format: parquet, filepath: train.parquet}

    Python:
        AuditedDataset(dataset={…}, stage="checkpoint_ingest").load()
    """

    def __init__(
        self,
        dataset: Mapping[str, Any],
        stage: str,
        identity: str | None = None,
        parameters: Mapping[str, Any] | None = None,
    ) -> None:
        self._definition = dict(dataset)
        # Under the name by which hooks and MLflow find a file.
        self._filepath = Path(dataset.get("filepath") or dataset["path"])
        self._stage = stage
        self._identity = None if identity is None else Path(identity)
        self._parameters = parameters or {}
        self._digests: list[str | None] = []

    @cached_property
    def _dataset(self) -> AbstractDataset[Any, Any]:
        # Made when it is used: it may import torch.
        kind, arguments = parse_dataset_definition(dict(self._definition))
        return kind(**arguments)

    def _save(self, data: Any) -> None:
        # First, so that nothing half-written passes for the whole.
        self._record.unlink(missing_ok=True)
        self._dataset.save(data)
        self._digests.append(data.digest if isinstance(data, KeptFile) else None)
        if not self._filepath.is_dir():
            self.confirm()

    def confirm(self) -> None:
        """Write what the files are made of: they are complete."""
        known = dict(zip(self._files(), self._digests, strict=False))
        files = {file.name: known.get(file) or file_digest(file) for file in self._files()}
        record = _Record(made_of=self._now(), files=files)
        with replacing(self._record) as partial:
            partial.write_text(record.model_dump_json(indent=1), encoding="utf-8")

    def _load(self) -> Any:
        if self._identity is not None or self._exists() or self._record.exists():
            self._check()
        return self._dataset.load()

    def _check(self) -> None:
        """Refuse what is not what the stage wrote, or was made of something else."""
        now = self._now()
        if not self._exists():
            raise self._refusal(f"There is no {self._filepath}")
        try:
            record = _Record.model_validate_json(self._record.read_bytes())
        except FileNotFoundError as error:
            raise self._refusal(
                f"{self._filepath} is not complete: the run that wrote it stopped in the middle, "
                f"or an earlier version wrote it ({self._record.name} is missing)"
            ) from error
        except ValueError as error:
            raise self._refusal(f"{self._record} is damaged") from error
        found = {file.name: file for file in self._files()}
        for name in sorted({*found, *record.files}):
            if name not in found:
                raise self._refusal(f"{self._filepath / name} is missing")
            if record.files.get(name) != file_digest(found[name]):
                raise self._refusal(
                    f"{found[name]} is damaged, or another file was put in its place"
                )
        if now is None:
            return
        made = record.made_of
        different = made.differences(now, self._stage) if made else "other things"
        if different:
            raise self._refusal(
                f"{self._filepath} was made with {different} than the audit has now"
            )

    def _now(self) -> MadeOf | None:
        """Return what the audit is made of now; None where only bytes are checked."""
        if self._identity is None:
            return None
        return _read_identity(self._identity, self._parameters)

    def _refusal(self, what: str) -> InputError:
        return InputError(
            f"{what}. Run `kedro run --pipelines {self._stage}`"
            + (
                " again."
                if self._identity is None
                else " and the stages after it again, or the whole audit, `kedro run --pipelines "
                "audit`."
            )
        )

    @property
    def _record(self) -> Path:
        return self._filepath.with_name(self._filepath.name + _ENDING)

    def _files(self) -> list[Path]:
        if self._filepath.is_dir():
            return sorted(self._filepath.glob("part-*.parquet"))
        return [self._filepath]

    def _exists(self) -> bool:
        return self._filepath.exists()

    def _describe(self) -> dict[str, Any]:
        return {"stage": self._stage, "filepath": str(self._filepath)}


def _read_identity(file: Path, parameters: Mapping[str, Any]) -> MadeOf:
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
