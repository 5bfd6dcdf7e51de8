"""The stages, in the order in which they run."""

from kedro.pipeline import Pipeline

from sourcetrace.pipelines import (
    checkpoint_ingest,
    cleaning_report,
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
        "gate": gate.create_pipeline(),
        "audit": audit + gate.create_pipeline(),
        "demo_training": training,
        "demo_evaluation": evaluation,
        "verification": verification.create_pipeline()
        + gate.create_pipeline(page="verified_cleaning_report"),
        "__default__": training
        + audit
        + evaluation
        + gate.create_pipeline(page="demo_cleaning_report"),
    }
