"""What reviewers of the audited model are handed: a section for its card, a bill of materials.

Documents come after the verdict and before it is enforced.
"""

from importlib.util import find_spec

from kedro.pipeline import Pipeline

from sourcetrace.pipelines.governance.nodes import gather_facts
from sourcetrace.pipelines.shared.step import step
from sourcetrace.reporting.documents.model_card import render_model_card


def documents() -> tuple[str, ...]:
    """Return the entries that are made: the bill of materials is an extra."""
    return ("model_card", "ml_bom") if find_spec("cyclonedx") else ("model_card",)


def create_pipeline() -> Pipeline:
    """Return the pipeline; it runs on what the gate left."""
    made = [
        # Not the whole group: kedro-mlflow logs what a node takes.
        step(gather_facts, "audit_facts", registered_model="params:tracking.registered_model"),
        step(render_model_card, "model_card", facts="audit_facts"),
    ]
    if "ml_bom" in documents():
        from sourcetrace.integrations.ml_bom import make_ml_bom  # An extra.

        made.append(step(make_ml_bom, "ml_bom", facts="audit_facts"))
    return Pipeline(made)
