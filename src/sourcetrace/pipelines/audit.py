"""The stages put together, for this project's registry and for other Kedro projects."""

from collections.abc import Mapping

from kedro.pipeline import Pipeline

from sourcetrace.pipelines import (
    checkpoint_ingest,
    cleaning_report,
    comparison,
    ekfac_fitting,
    gate,
    gradient_extraction,
    source_scoring,
    verification,
)


def create_stages() -> dict[str, Pipeline]:
    """Return the five stages by name, in the order in which they run."""
    return {
        "checkpoint_ingest": checkpoint_ingest.create_pipeline(),
        "gradient_extraction": gradient_extraction.create_pipeline(),
        "ekfac_fitting": ekfac_fitting.create_pipeline(),
        "source_scoring": source_scoring.create_pipeline(),
        "cleaning_report": cleaning_report.create_pipeline(),
    }


def create_judgement(*, page: str = "cleaning_report") -> Pipeline:
    """Return what ends an audit: the comparison with the audit before, then the gate.

    Args:
        page: The entry under which the page was written last in the same run.
    """
    return comparison.create_pipeline(page=page) + gate.create_pipeline(page=page)


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
    return _under(namespace, verification.create_pipeline() + create_judgement(page=page), inputs)


def _under(namespace: str | None, pipeline: Pipeline, inputs: Mapping[str, str] | None) -> Pipeline:
    if namespace is None and not inputs:
        return pipeline
    return Pipeline(pipeline, namespace=namespace, inputs=dict(inputs or {}))
