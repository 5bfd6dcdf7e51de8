"""The stages, in the order in which they run."""

from kedro.pipeline import Pipeline

from sourcetrace.pipelines import (
    checkpoint_ingest,
    cleaning_report,
    comparison,
    demo_evaluation,
    demo_training,
    ekfac_fitting,
    gate,
    gradient_extraction,
    source_scoring,
    verification,
)


def register_pipelines() -> dict[str, Pipeline]:
    """Return every pipeline by name."""
    stages = {
        "checkpoint_ingest": checkpoint_ingest.create_pipeline(),
        "gradient_extraction": gradient_extraction.create_pipeline(),
        "ekfac_fitting": ekfac_fitting.create_pipeline(),
        "source_scoring": source_scoring.create_pipeline(),
        "cleaning_report": cleaning_report.create_pipeline(),
    }
    audit = sum(stages.values(), start=Pipeline([]))
    # The verdict is the last thing on the page, and nothing is left to write when the gate fails.
    training = demo_training.create_pipeline()
    evaluation = demo_evaluation.create_pipeline()
    return {
        **stages,
        "gate": _judgement(),
        "audit": audit + _judgement(),
        "demo_training": training,
        "demo_evaluation": evaluation,
        "verification": verification.create_pipeline()
        + _judgement(page="verified_cleaning_report"),
        "__default__": training + audit + evaluation + _judgement(page="demo_cleaning_report"),
    }


def _judgement(*, page: str = "cleaning_report") -> Pipeline:
    """Return what ends an audit: the gate can be about what changed since the audit before."""
    return comparison.create_pipeline(page=page) + gate.create_pipeline(page=page)
