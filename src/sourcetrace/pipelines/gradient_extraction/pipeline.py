"""The batch size of the run, then every forward pass of the audit."""

from kedro.pipeline import Pipeline, node

from sourcetrace.pipelines.gradient_extraction.nodes import choose_batch_size, extract_gradients


def create_pipeline() -> Pipeline:
    """Return the stage."""
    return Pipeline(
        [
            node(
                choose_batch_size,
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
                outputs="batch_size",
                name="choose_batch_size",
            ),
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
                    "batch_size": "batch_size",
                },
                outputs=["example_signals", "query_signals", "covariances", "extraction_metrics"],
                name="extract_gradients",
            ),
        ]
    )
