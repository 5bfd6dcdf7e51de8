"""One node: every forward pass of the audit."""

from kedro.pipeline import Pipeline, node

from sourcetrace.pipelines.gradient_extraction.nodes import extract_gradients


def create_pipeline() -> Pipeline:
    """Return the stage."""
    return Pipeline(
        [
            node(
                extract_gradients,
                inputs={
                    "checkpoints": "checkpoints",
                    "task": "task",
                    "checkpoint_manifest": "checkpoint_manifest",
                    "train_table": "train_table",
                    "query_table": "query_table",
                    "gradient_cache": "gradient_cache",
                    "gradients": "params:gradients",
                    "attribution": "params:attribution",
                    "ensemble": "params:ensemble",
                },
                outputs=["example_signals", "query_signals", "covariances"],
                name="extract_gradients",
            )
        ]
    )
