"""Gradients of every example at every checkpoint: the set-up, then all forward passes."""

from kedro.pipeline import Pipeline

from sourcetrace.pipelines.gradient_extraction.nodes import extract_gradients
from sourcetrace.pipelines.shared.set_up import set_up_nodes
from sourcetrace.pipelines.shared.step import step


def create_pipeline() -> Pipeline:
    """Return the stage."""
    made = ["example_signals", "query_signals", "covariances", "extraction_metrics"]
    return Pipeline([*set_up_nodes(), step(extract_gradients, made, gradients="params:gradients")])
