"""The pipelines of this project by name."""

from kedro.pipeline import Pipeline

from sourcetrace.pipelines import demo_evaluation, demo_training
from sourcetrace.pipelines.audit import (
    create_audit,
    create_judgement,
    create_stages,
    create_verification,
)


def register_pipelines() -> dict[str, Pipeline]:
    """Return every pipeline by name."""
    stages = create_stages()
    training = demo_training.create_pipeline()
    evaluation = demo_evaluation.create_pipeline()
    return {
        **stages,
        "gate": create_judgement(),
        "audit": create_audit(),
        "demo_training": training,
        "demo_evaluation": evaluation,
        "verification": create_verification(),
        # The verdict is the last thing on the page, and nothing is left to write when it fails.
        "__default__": sum(stages.values(), start=training)
        + evaluation
        + create_judgement(page="demo_cleaning_report"),
    }
