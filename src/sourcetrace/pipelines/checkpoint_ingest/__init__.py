"""Checkpoints and data, checked before anything expensive starts.

One node, so that a wrong input leaves every earlier output as it was.
"""

from kedro.pipeline import Pipeline, node

from sourcetrace.pipelines.checkpoint_ingest.nodes import ingest


def create_pipeline() -> Pipeline:
    """Return the stage."""
    return Pipeline(
        [
            node(
                ingest,
                # The checkpoints first: in a run that also trains, the task's data are
                # written by then.
                inputs=[
                    "checkpoints",
                    "task",
                    "params:segments",
                    "params:attribution",
                    "params:ensemble",
                ],
                outputs=[
                    # Saved in this order: what is written later is of this audit.
                    "audit_identity",
                    "checkpoint_manifest",
                    "unattributed_parameters",
                    "train_table",
                    "query_table",
                    "data_digests",
                    "example_digests",
                ],
                name="ingest_checkpoints",
            ),
        ]
    )
