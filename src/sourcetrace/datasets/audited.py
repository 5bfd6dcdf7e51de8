"""Results of an audit that say what they were made of, and are checked when they are loaded."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple, NoReturn

from kedro.io import AbstractDataset
from kedro.io.core import parse_dataset_definition
from pydantic import BaseModel

from sourcetrace.audit.identity.made_of import MadeOf
from sourcetrace.datasets.audit_identity import read_identity
from sourcetrace.datasets.entries import open_entries
from sourcetrace.datasets.optional import InFile
from sourcetrace.errors import InputError
from sourcetrace.files import digest_of, file_digest, replacing
from sourcetrace.work.unit import KeptFile

_ENDING = ".made_of.json"


class Fault(NamedTuple):
    """Why a stored result is of no use.

    Attributes:
        kind: What it is.
        text: In words.
        different: What it was made with that the audit has otherwise now.
    """

    kind: Literal["missing", "incomplete", "damaged", "out of date"]
    text: str
    different: str = ""


class _Record(BaseModel):
    """What lies beside a result.

    Attributes:
        made_of: What it was made of; None where that is not known.
        files: Name -> SHA-256.
        node: Digest of the code and the inputs of the node that made it, where they are known.
    """

    made_of: MadeOf | None
    files: dict[str, str]
    node: str = ""


class AuditedDataset(InFile, AbstractDataset[Any, Any]):
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

    Attributes:
        definition: Of the data set, as in a catalog.
        node: As the record of the next save will have it.

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
        self.definition = dict(dataset)
        # Under the name by which hooks and MLflow find a file.
        self._filepath = Path(dataset.get("filepath") or dataset["path"])
        self.stage = stage
        self.identity = None if identity is None else Path(identity)
        self._parameters = parameters or {}
        self._digests: list[str | None] = []
        self.node = ""

    @cached_property
    def _dataset(self) -> AbstractDataset[Any, Any]:
        # Made when it is used: it may import torch.
        kind, arguments = parse_dataset_definition(dict(self.definition))
        return kind(**arguments)

    def _save(self, data: Any) -> None:
        if isinstance(data, KeptFile) and data == self.kept():
            return
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
        record = _Record(made_of=self._now(), files=files, node=self.node)
        self.node = ""  # whoever saves it once more may have made it of something else
        with replacing(self._record) as partial:
            partial.write_text(record.model_dump_json(indent=1), encoding="utf-8")
        # What is saved from now on is another run's, from its first part.
        self._digests.clear()
        vars(self).pop("_dataset", None)

    def stands(self, node: str) -> bool:
        """Return whether the result is whole, and a node of this digest made it."""
        return self.fault() is None and self._read().node == node

    def kept(self) -> KeptFile:
        """Return the result as it is, which is not written again where it is saved."""
        return KeptFile(self._filepath, "")

    def digest(self) -> str:
        """Return one digest of the files, as they were written, and of how they are read.

        Empty where nothing was written.
        """
        return digest_of([self.definition, self._read().files]) if self._record.exists() else ""

    def _read(self) -> _Record:
        return _Record.model_validate_json(self._record.read_bytes())

    def _load(self) -> Any:
        if self.identity is not None or self._exists() or self._record.exists():
            self._check()
        return self._dataset.load()

    def _check(self) -> None:
        """Refuse what is not what the stage wrote, or was made of something else."""
        if (fault := self.fault()) is not None:
            raise self._refusal(fault.text)

    def fault(self, *, reads: bool = True) -> Fault | None:
        """Return why the result is not what the stage writes now; None where it is.

        Args:
            reads: Whether every byte is read.

        Raises:
            InputError: If nothing was audited.
        """
        now = self._now()
        if not self._exists():
            return Fault("missing", f"There is no {self._filepath}")
        try:
            record = self._read()
        except FileNotFoundError:
            return Fault(
                "incomplete",
                f"{self._filepath} is not complete: the run that wrote it stopped in the middle, "
                f"or an earlier version wrote it ({self._record.name} is missing)",
            )
        except ValueError:
            return Fault("damaged", f"{self._record} is damaged")
        if damage := self._damage(record, reads=reads):
            return Fault("damaged", damage)
        different = ""
        if now is not None:
            made = record.made_of
            different = made.differences(now, self.stage) if made else "other things"
        text = f"{self._filepath} was made with {different} than the audit has now"
        return Fault("out of date", text, different) if different else None

    def _damage(self, record: _Record, *, reads: bool) -> str:
        """Return in words what is not as it was written; empty where all is."""
        found = {file.name: file for file in self._files()}
        for name in sorted({*found, *record.files}):
            try:
                file = found[name]
                if reads and record.files.get(name) != file_digest(file):
                    return f"{file} is damaged, or another file was put in its place"
            except (KeyError, FileNotFoundError):  # a run may put others there meanwhile
                return f"{found.get(name, self._filepath / name)} is missing"
        return ""

    def _now(self) -> MadeOf | None:
        """Return what the audit is made of now; None where only bytes are checked."""
        if self.identity is None:
            return None
        return read_identity(self.identity, self._parameters)

    def _refusal(self, what: str) -> InputError:
        return InputError(
            f"{what}. Run `kedro run --pipelines {self.stage}`"
            + (
                " again."
                if self.identity is None
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

    def _describe(self) -> dict[str, Any]:
        return {"stage": self.stage, "filepath": str(self._filepath)}


@dataclass(frozen=True)
class StoredAudit:
    """What of an audit is stored.

    Attributes:
        now: What the audit is made of now; None where nothing was ingested.
        results: What the catalog has of it.
        units: Folder of the ledger.
    """

    now: MadeOf | None
    results: Sequence[AuditedDataset]
    units: Path

    def of(self, stage: str) -> dict[str, AuditedDataset]:
        """Return a stage's results by their files' paths."""
        return {str(one._filepath): one for one in self.results if one.stage == stage}


class StoredAuditDataset(AbstractDataset[NoReturn, StoredAudit]):
    """Gathers an audit's results: the entries of the catalog that are checked against its identity.

    YAML:
        stored_audit:
          type: sourcetrace.datasets.StoredAuditDataset
          identity: data/02_intermediate/audit_identity.json
          parameters: {task: "${parameter:task}", attribution: "${parameter:attribution}"}
          units: data/04_feature/gradients/units

    Python:
        StoredAuditDataset("audit_identity.json", parameters, "units").load()
    """

    def __init__(self, identity: str, parameters: Mapping[str, Any], units: str) -> None:
        self._identity, self._parameters, self._units = identity, parameters, units

    def _load(self) -> StoredAudit:
        file = Path(self._identity)
        return StoredAudit(
            read_identity(file, self._parameters) if file.exists() else None,
            [
                one
                for one in open_entries()
                if isinstance(one, AuditedDataset) and one.identity == file
            ],
            Path(self._units),
        )

    def _save(self, data: NoReturn) -> None:
        raise NotImplementedError("The stages write their results.")

    def _describe(self) -> dict[str, Any]:
        return {"identity": self._identity, "units": self._units}
