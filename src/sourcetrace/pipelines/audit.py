"""The stages put together, for this project's registry and for other Kedro projects."""

from collections.abc import Mapping
from importlib import import_module
from itertools import chain

from kedro.pipeline import Pipeline

STAGES = {
    "checkpoint_ingest": ("checkpoint_ingest",),
    "gradient_extraction": ("gradient_extraction",),
    "ekfac_fitting": ("ekfac_fitting",),
    "source_scoring": ("source_scoring",),
    "cleaning_report": ("cleaning_report", "findings", "page"),
}
"""The five stages, in the order in which they run -> the folders of their pipelines."""


JUDGEMENT = ("comparison", "gate", "governance", "page")
"""What ends an audit: the comparison with the audit before, the gate, and the page."""


def create_stage(*folders: str) -> Pipeline:
    """Return the pipelines of folders beside this file, imported now and not before.

    This is the one place that is lazy: stages that compute import torch, and a report from tables
    or `--help` needs none.
    """
    made = (import_module(f"sourcetrace.pipelines.{name}.nodes").PIPELINE for name in folders)
    return sum(made, start=Pipeline([]))


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
    stages = create_stage(*chain.from_iterable(STAGES.values()), *JUDGEMENT)
    return _under(namespace, stages, inputs)


def create_stages() -> Pipeline:
    """Return the audit for kedro-viz: a stage is a namespace of nodes, shown as one that opens.

    Entries keep their names. It is to be looked at: a run records the audit of one namespace.
    """
    shown, named = Pipeline([]), set[str]()
    for name, folders in {**STAGES, "gate": JUDGEMENT}.items():
        # The page comes last, whichever stage renders it; the set-up with the first that needs it.
        own = create_stage(*(one for one in folders if one != "page" or name == "gate"))
        new = [node for node in own.nodes if node.name not in named]
        named |= {node.name for node in new}
        shown += Pipeline(new, namespace=name, prefix_datasets_with_namespace=False)
    return shown


def create_preflight(
    namespace: str | None = None, *, inputs: Mapping[str, str] | None = None
) -> Pipeline:
    """Return every check of an audit's inputs, run at once before it; see `create_audit`."""
    return _under(namespace, create_stage("preflight"), inputs)


def create_status(
    namespace: str | None = None, *, inputs: Mapping[str, str] | None = None
) -> Pipeline:
    """Return what says which results are done and what a run would do; see `create_audit`."""
    return _under(namespace, create_stage("status"), inputs)


def create_explain(
    namespace: str | None = None, *, inputs: Mapping[str, str] | None = None
) -> Pipeline:
    """Return what `sourcetrace explain` runs behind an audit; see `create_audit`."""
    return _under(namespace, create_stage("explanation"), inputs)


def create_verification(
    namespace: str | None = None, *, inputs: Mapping[str, str] | None = None
) -> Pipeline:
    """Return the retraining that tests an audit's scores, and the gate; see `create_audit`."""
    return _under(namespace, create_stage("verification", *JUDGEMENT), inputs)


def create_decisions(
    namespace: str | None = None, *, inputs: Mapping[str, str] | None = None
) -> Pipeline:
    """Return what takes people's decisions about examples, and the page; see `create_audit`."""
    return _under(namespace, create_stage("apply_decisions", "page"), inputs)


def create_cleaning_test(
    namespace: str | None = None, *, inputs: Mapping[str, str] | None = None
) -> Pipeline:
    """Return the retraining that tests what decisions gain, and the page; see `create_audit`."""
    return _under(namespace, create_stage("verify_cleaning", "page"), inputs)


def _under(namespace: str | None, pipeline: Pipeline, inputs: Mapping[str, str] | None) -> Pipeline:
    if namespace is None and not inputs:
        return pipeline
    return Pipeline(pipeline, namespace=namespace, inputs=dict(inputs or {}))
