"""The set-up, then every forward pass of the audit."""

from kedro.pipeline import Pipeline, node

from sourcetrace.pipelines.gradient_extraction.nodes import extract_gradients
from sourcetrace.pipelines.shared.set_up import set_up_nodes


def create_pipeline() -> Pipeline:
    """Return the stage."""
    return Pipeline(
        [
            *set_up_nodes(),
            node(
                extract_gradients,
                inputs={"audit_setup": "audit_setup", "gradients": "params:gradients"},
                outputs=["example_signals", "query_signals", "covariances", "extraction_metrics"],
                name="extract_gradients",
            ),
        ]
    )
