"""Documents come after the verdict and before it is enforced."""

from importlib.util import find_spec

from kedro.pipeline import Pipeline, node

from sourcetrace.pipelines.governance.nodes import gather_facts
from sourcetrace.reporting.documents.model_card import render_model_card


def documents() -> tuple[str, ...]:
    """Return the entries that are made: the bill of materials is an extra."""
    return ("model_card", "ml_bom") if find_spec("cyclonedx") else ("model_card",)


def create_pipeline() -> Pipeline:
    """Return the pipeline; it runs on what the gate left."""
    made = Pipeline(
        [
            node(
                gather_facts,
                inputs=[
                    "audit_result",
                    "gate_report",
                    "verification_summary",
                    "code_revision",
                    # Not the whole group: kedro-mlflow logs what a node takes.
                    "params:tracking.registered_model",
                ],
                outputs="audit_facts",
                name="gather_facts",
            ),
            node(
                render_model_card,
                inputs="audit_facts",
                outputs="model_card",
                name="render_model_card",
            ),
        ]
    )
    if "ml_bom" not in documents():
        return made
    from sourcetrace.pipelines.governance.bill import create_bill  # An extra.

    return made + create_bill()
