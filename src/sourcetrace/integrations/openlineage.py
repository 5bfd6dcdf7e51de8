"""A run and its nodes as events of OpenLineage, appended to a file.

The run of a pipeline is a job's run, each node's a child of it. Jobs and data sets are named in
one namespace; a data set by its name in the catalog. Of the data itself there are names and types
of columns and digests, no row.
"""

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any
from urllib.parse import quote

import polars as pl
from kedro.io import DataCatalog
from openlineage.client import OpenLineageClient
from openlineage.client.event_v2 import (
    InputDataset,
    Job,
    OutputDataset,
    Run,
    RunEvent,
    set_producer,
)
from openlineage.client.facet_v2 import (
    DatasetFacet,
    JobFacet,
    RunFacet,
    dataset_version_dataset,
    datasource_dataset,
    error_message_run,
    job_type_job,
    nominal_time_run,
    parent_run,
    processing_engine_run,
    schema_dataset,
    source_code_location_job,
    tags_run,
)
from openlineage.client.generated.base import EventType
from openlineage.client.transport.file import FileConfig, FileTransport
from openlineage.client.uuid import generate_new_uuid

from sourcetrace import __version__
from sourcetrace.audit.identity.code_revision import code_revision, repository_address
from sourcetrace.parameters import OpenLineageParameters
from sourcetrace.redaction import error_line
from sourcetrace.tracking.lineage.record import CheckpointFile, DataRecord

PRODUCER = f"pkg:pypi/sourcetrace@{__version__}"
"""Who made an event: a URI, as the format wants it."""

Facets = dict[str, DatasetFacet]


class RunEvents:
    """The events of one run of a pipeline."""

    def __init__(
        self, parameters: OpenLineageParameters, *, job: str, project: Path, mlflow_run: str | None
    ) -> None:
        path = project / parameters.path
        path.parent.mkdir(parents=True, exist_ok=True)
        set_producer(PRODUCER)
        transport = FileTransport(FileConfig(log_file_path=str(path), append=True))
        self._client = OpenLineageClient(transport=transport)
        self._namespace = parameters.namespace
        self._job, self._project = job, project
        self._run = str(generate_new_uuid())
        self._node_runs: dict[str, str] = {}
        self._started = _now()
        revision = code_revision(project)
        tags = {"mlflow_run_id": mlflow_run, "git_commit": revision.commit if revision else None}
        self._tags = {name: value for name, value in tags.items() if value}
        self._address = repository_address(project)

    def start(self) -> None:
        """Say that the run began."""
        self._emit(EventType.START, self._run, self._job, "PIPELINE", self._run_facets())

    def end(
        self,
        *,
        inputs: Iterable[InputDataset] = (),
        outputs: Iterable[OutputDataset] = (),
        error: Exception | None = None,
    ) -> None:
        """Say that the run ended, well or not, and what went in and out."""
        self._emit(
            _ending(error),
            self._run,
            self._job,
            "PIPELINE",
            self._run_facets() | _error_facet(error),
            inputs=inputs,
            outputs=outputs,
        )

    def start_node(self, name: str) -> None:
        """Say that a node began."""
        self._node_runs[name] = str(generate_new_uuid())
        self._emit(EventType.START, self._node_runs[name], self._name(name), "NODE", self._child())

    def end_node(
        self,
        name: str,
        *,
        inputs: Iterable[InputDataset] = (),
        outputs: Iterable[OutputDataset] = (),
        error: Exception | None = None,
    ) -> None:
        """Say that a node ended."""
        self._emit(
            _ending(error),
            self._node_runs.pop(name),
            self._name(name),
            "NODE",
            self._child() | _error_facet(error),
            inputs=inputs,
            outputs=outputs,
        )

    def input(self, name: str, facets: Facets) -> InputDataset:
        """Return a data set that is read."""
        return InputDataset(self._namespace, name, facets=facets)

    def output(self, name: str, facets: Facets) -> OutputDataset:
        """Return a data set that is written."""
        return OutputDataset(self._namespace, name, facets=facets)

    def entry_facets(self, name: str, catalog: DataCatalog, value: Any = None) -> Facets:
        """Return what is known of a catalog's entry: its file in the project, and its columns."""
        facets: Facets = {}
        dataset: Any = catalog.get(name)
        path = getattr(dataset, "_filepath", None) or getattr(dataset, "_path", None)
        if path is not None and (inside := _relative(Path(str(path)), self._project)):
            facets["dataSource"] = datasource_dataset.DatasourceDatasetFacet(
                name=name, uri=f"file:{quote(inside)}"
            )
        if isinstance(value, pl.DataFrame):
            facets["schema"] = _schema({key: str(kind) for key, kind in value.schema.items()})
        return facets

    def audited_data(self, name: str, data: DataRecord) -> InputDataset:
        """Return data that was audited, with the digest of its content as its version."""
        return self.input(name, {"schema": _schema(data.columns), "version": _version(data.digest)})

    def checkpoint(self, checkpoint: CheckpointFile) -> InputDataset:
        """Return a checkpoint, with the SHA-256 of its file as its version."""
        return self.input(
            f"checkpoint/{checkpoint.id}", {"version": _version(f"sha256:{checkpoint.sha256}")}
        )

    def _name(self, node: str) -> str:
        return f"{self._job}.{node}"

    def _run_facets(self) -> dict[str, RunFacet]:
        tags = [
            tags_run.TagsRunFacetFields(key=key, value=value, source="INTEGRATION")
            for key, value in self._tags.items()
        ]
        return {
            "nominalTime": nominal_time_run.NominalTimeRunFacet(nominalStartTime=self._started),
            "processing_engine": processing_engine_run.ProcessingEngineRunFacet(
                version=version("kedro"), name="Kedro", openlineageAdapterVersion=__version__
            ),
            **({"tags": tags_run.TagsRunFacet(tags=tags)} if tags else {}),
        }

    def _child(self) -> dict[str, RunFacet]:
        parent = parent_run.ParentRunFacet(
            run=parent_run.Run(runId=self._run),
            job=parent_run.Job(namespace=self._namespace, name=self._job),
        )
        return {"parent": parent}

    def _job_facets(self, kind: str) -> dict[str, JobFacet]:
        facets: dict[str, JobFacet] = {
            "jobType": job_type_job.JobTypeJobFacet(
                processingType="BATCH", integration="KEDRO", jobType=kind
            )
        }
        if self._address is not None:
            facets["sourceCodeLocation"] = source_code_location_job.SourceCodeLocationJobFacet(
                type="git", url=self._address, version=self._tags.get("git_commit")
            )
        return facets

    def _emit(
        self,
        kind: EventType,
        run: str,
        job: str,
        job_type: str,
        facets: Mapping[str, RunFacet],
        *,
        inputs: Iterable[InputDataset] = (),
        outputs: Iterable[OutputDataset] = (),
    ) -> None:
        self._client.emit(
            RunEvent(
                eventType=kind,
                eventTime=_now(),
                run=Run(run, facets=dict(facets)),
                job=Job(self._namespace, job, facets=self._job_facets(job_type)),
                inputs=list(inputs),
                outputs=list(outputs),
            )
        )


def _ending(error: Exception | None) -> EventType:
    return EventType.COMPLETE if error is None else EventType.FAIL


def _error_facet(error: Exception | None) -> dict[str, RunFacet]:
    if error is None:
        return {}
    # No stack trace: it may show data, and where the project lies.
    return {
        "errorMessage": error_message_run.ErrorMessageRunFacet(
            message=error_line(error), programmingLanguage="PYTHON"
        )
    }


def _schema(columns: Mapping[str, str]) -> schema_dataset.SchemaDatasetFacet:
    return schema_dataset.SchemaDatasetFacet(
        fields=[
            schema_dataset.SchemaDatasetFacetFields(name=name, type=kind)
            for name, kind in columns.items()
        ]
    )


def _version(text: str) -> dataset_version_dataset.DatasetVersionDatasetFacet:
    return dataset_version_dataset.DatasetVersionDatasetFacet(datasetVersion=text)


def _relative(path: Path, project: Path) -> str | None:
    """Return the path in the project; None outside: where it is, is nobody's business."""
    try:
        return path.relative_to(project).as_posix() if path.is_absolute() else path.as_posix()
    except ValueError:
        return None


def _now() -> str:
    return datetime.now(UTC).isoformat()
