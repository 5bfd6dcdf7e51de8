"""A run and its nodes as events of OpenLineage, appended to a file.

The run of a pipeline is a job's run, each node's a child of it. Jobs and data sets are named in
one namespace; a data set by its name in the catalog. Of the data itself there are names and types
of columns and digests, no row.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal
from urllib.parse import quote

import polars as pl
from kedro.io import DataCatalog
from openlineage.client import OpenLineageClient, event_v2, facet_v2
from openlineage.client.generated.base import EventType
from openlineage.client.transport.file import FileConfig, FileTransport
from openlineage.client.uuid import generate_new_uuid

from sourcetrace import __version__
from sourcetrace.audit.identity.code_revision import CodeRevision
from sourcetrace.namespace import AuditNames
from sourcetrace.parameters import OpenLineageParameters
from sourcetrace.redaction import error_line

_RESULTS = (
    "attribution_scores",
    "review_list",
    "cleaning_report",
    "gate_report",
    "audit_result",
    "model_card",
    "ml_bom",
)
"""What an audit is run for; the other entries are outputs of its nodes alone."""

_READ = {"training": "audited_training_data", "queries": "audited_queries"}


_Facets = dict[str, facet_v2.DatasetFacet]


class RunEvents:
    """The events of one run of a pipeline, which begins when this is made."""

    def __init__(
        self,
        parameters: OpenLineageParameters,
        *,
        catalog: DataCatalog,
        names: AuditNames,
        job: str,
        project: Path,
        mlflow_run: str | None,
    ) -> None:
        path = project / parameters.path
        path.parent.mkdir(parents=True, exist_ok=True)
        event_v2.set_producer(f"pkg:pypi/sourcetrace@{__version__}")
        transport = FileTransport(FileConfig(log_file_path=str(path), append=True))
        self._client = OpenLineageClient(transport=transport)
        self._namespace, self._names = parameters.namespace, names
        self._catalog, self._project = catalog, project
        self._job, self._run_ids = job, {job: str(generate_new_uuid())}
        self._made: dict[str, Any] = {}
        revision = CodeRevision.of(project)
        tags = {"mlflow_run_id": mlflow_run, "git_commit": revision.commit if revision else None}
        field = facet_v2.tags_run.TagsRunFacetFields
        self._run_facets: dict[str, facet_v2.RunFacet] = {
            "nominalTime": facet_v2.nominal_time_run.NominalTimeRunFacet(_now()),
            "processing_engine": facet_v2.processing_engine_run.ProcessingEngineRunFacet(
                version=version("kedro"), name="Kedro", openlineageAdapterVersion=__version__
            ),
            "tags": facet_v2.tags_run.TagsRunFacet(
                [field(name, value, "INTEGRATION") for name, value in tags.items() if value]
            ),
        }
        parent = facet_v2.parent_run
        self._node_facets: dict[str, facet_v2.RunFacet] = {
            "parent": parent.ParentRunFacet(
                run=parent.Run(self._run_ids[job]), job=parent.Job(self._namespace, job)
            )
        }
        self._job_facets: dict[str, facet_v2.JobFacet] = {}
        if (address := CodeRevision.address(project)) is not None:
            location = facet_v2.source_code_location_job.SourceCodeLocationJobFacet
            self._job_facets["sourceCodeLocation"] = location(
                type="git", url=address, version=tags["git_commit"]
            )
        self.emit("START")

    def end_node(self, node: str, *, inputs: Mapping[str, Any], outputs: Mapping[str, Any]) -> None:
        """Say that a node ended, and keep what the run's own end needs."""
        kept = (*_RESULTS, "data_digests", "checkpoint_manifest")
        own = self._names.own(outputs)
        self._made |= {name: own[name] for name in kept if name in own}
        read = {
            name: value
            for name, value in inputs.items()
            if name != "parameters" and not name.startswith("params:")
        }
        self.emit(
            "COMPLETE",
            node,
            inputs=self._entries(read),
            outputs=self._entries(outputs),
        )

    def end(self, error: Exception | None) -> None:
        """Say that the run ended, well or not, and what went in and out."""
        digests = self._made.get("data_digests", {})
        read: dict[str, _Facets] = {
            name: {
                "schema": _schema(digests[key]["columns"]),
                "version": _version(digests[key]["digest"]),
            }
            for key, name in _READ.items()
            if key in digests
        }
        for row in self._made.get("checkpoint_manifest", pl.DataFrame()).iter_rows(named=True):
            read[f"checkpoint/{row['checkpoint_id']}"] = {
                "version": _version(f"sha256:{row['sha256']}")
            }
        written = {self._names.full(one): self._made[one] for one in _RESULTS if one in self._made}
        self.emit(
            "COMPLETE" if error is None else "FAIL",
            error=error,
            inputs=read,
            outputs=self._entries(written),
        )

    def _entries(self, values: Mapping[str, Any]) -> dict[str, _Facets]:
        """Return what is known of entries of the catalog: files in the project, and columns."""
        entries: dict[str, _Facets] = {}
        for name, value in values.items():
            facets: _Facets = {}
            dataset: Any = self._catalog.get(name)
            given = getattr(dataset, "_filepath", None) or getattr(dataset, "_path", None)
            path = self._project / str(given)
            # Where a file outside the project lies is nobody's business.
            if given is not None and path.is_relative_to(self._project):
                facets["dataSource"] = facet_v2.datasource_dataset.DatasourceDatasetFacet(
                    name, f"file:{quote(path.relative_to(self._project).as_posix())}"
                )
            if isinstance(value, pl.DataFrame | pl.LazyFrame):
                columns = value.collect_schema().items()
                facets["schema"] = _schema({key: str(kind) for key, kind in columns})
            entries[name] = facets
        return entries

    def emit(
        self,
        kind: Literal["START", "COMPLETE", "FAIL"],
        node: str | None = None,
        *,
        inputs: Mapping[str, _Facets] = MappingProxyType({}),
        outputs: Mapping[str, _Facets] = MappingProxyType({}),
        error: Exception | None = None,
    ) -> None:
        """Say that the run, or a node of it, began or ended.

        Args:
            kind: Which of them.
            node: Name of the node; None for the run.
            inputs: What it read, and what is known of it.
            outputs: What it wrote.
            error: What ended it.
        """
        job = self._job if node is None else f"{self._job}.{node}"
        run = self._run_ids.setdefault(job, str(generate_new_uuid()))
        facets = dict(self._run_facets if node is None else self._node_facets)
        if error is not None:
            # No stack trace: it may show data, and where the project lies.
            facets["errorMessage"] = facet_v2.error_message_run.ErrorMessageRunFacet(
                error_line(error), programmingLanguage="PYTHON"
            )
        job_type = facet_v2.job_type_job.JobTypeJobFacet(
            "BATCH", "KEDRO", "PIPELINE" if node is None else "NODE"
        )
        self._client.emit(
            event_v2.RunEvent(
                eventType=EventType[kind],
                eventTime=_now(),
                run=event_v2.Run(run, facets),
                job=event_v2.Job(self._namespace, job, {**self._job_facets, "jobType": job_type}),
                inputs=self._named(event_v2.InputDataset, inputs),
                outputs=self._named(event_v2.OutputDataset, outputs),
            )
        )

    def _named(self, kind: Any, entries: Mapping[str, _Facets]) -> list[Any]:
        return [kind(self._namespace, name, facets=known) for name, known in entries.items()]


def _schema(columns: Mapping[str, str]) -> facet_v2.DatasetFacet:
    field = facet_v2.schema_dataset.SchemaDatasetFacetFields
    return facet_v2.schema_dataset.SchemaDatasetFacet(
        [field(name, kind) for name, kind in columns.items()]
    )


def _version(text: str) -> facet_v2.DatasetFacet:
    return facet_v2.dataset_version_dataset.DatasetVersionDatasetFacet(text)


def _now() -> str:
    return datetime.now(UTC).isoformat()
