"""The ingest is one node, so that a wrong input leaves every earlier output as it was.

The data's digests come after it, from data that it has accepted.
"""

from kedro.pipeline import Pipeline, node

from sourcetrace.pipelines.checkpoint_ingest.nodes import digest_data, ingest_checkpoints


def create_pipeline() -> Pipeline:
    """Return the stage."""
    return Pipeline(
        [
            node(
                ingest_checkpoints,
                # The checkpoints first: in a run that also trains, the task's data are
                # written by then.
                inputs={
                    "checkpoints": "checkpoints",
                    "task": "task",
                    "segments": "params:segments",
                    "attribution": "params:attribution",
                    "ensemble": "params:ensemble",
                },
                outputs=[
                    "checkpoint_manifest",
                    "unattributed_parameters",
                    "train_table",
                    "query_table",
                ],
                name="ingest_checkpoints",
            ),
            node(
                digest_data,
                inputs={
                    "task": "task",
                    "train_table": "train_table",
                    "query_table": "query_table",
                },
                outputs=["data_digests", "example_digests"],
                name="digest_data",
            ),
        ]
    )
