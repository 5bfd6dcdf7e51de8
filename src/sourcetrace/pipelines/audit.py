"""The stages put together, for this project's registry and for other Kedro projects."""

from collections.abc import Mapping
from importlib import import_module

from kedro.pipeline import Pipeline

_STAGES = (
    "checkpoint_ingest",
    "gradient_extraction",
    "ekfac_fitting",
    "source_scoring",
    "cleaning_report",
)


def create_stage(name: str, **arguments: str) -> Pipeline:
    """Return the pipeline of a folder beside this file, imported now and not before.

    This is the one place that is lazy: stages that compute import torch, and a report from tables
    or `--help` needs none.

    Args:
        name: Of the folder.
        arguments: Of its `create_pipeline`.
    """
    stage: Pipeline = import_module(f"sourcetrace.pipelines.{name}").create_pipeline(**arguments)
    return stage


def create_stages() -> dict[str, Pipeline]:
    """Return the five stages by name, in the order in which they run."""
    return {name: create_stage(name) for name in _STAGES}


def create_judgement(*, page: str = "cleaning_report") -> Pipeline:
    """Return what ends an audit: the comparison with the audit before, then the gate.

    Args:
        page: The entry under which the page was written last in the same run.
    """
    return create_stage("comparison", page=page) + create_stage("gate", page=page)


def create_audit(
    namespace: str | None = None, *, inputs: Mapping[str, str] | None = None
) -> Pipeline:
    """Return the five stages, the comparison with the audit before, and the gate.

    Args:
        namespace: Prefix of nodes, entries and parameters, for a project that has others of its
            own; `sourcetrace adopt` writes the catalog and the parameters for it.
        inputs: Entries that stay outside the namespace, to the caller's own in their place:
            `{"checkpoints": "churn_checkpoints"}` audits once that entry is written.
    """
    audit = sum(create_stages().values(), start=Pipeline([])) + create_judgement()
    return _under(namespace, audit, inputs)


def create_verification(
    namespace: str | None = None, *, inputs: Mapping[str, str] | None = None
) -> Pipeline:
    """Return the retraining that tests an audit's scores, and the gate; see `create_audit`."""
    page = "verified_cleaning_report"
    return _under(namespace, create_stage("verification") + create_judgement(page=page), inputs)


def _under(namespace: str | None, pipeline: Pipeline, inputs: Mapping[str, str] | None) -> Pipeline:
    if namespace is None and not inputs:
        return pipeline
    return Pipeline(pipeline, namespace=namespace, inputs=dict(inputs or {}))
