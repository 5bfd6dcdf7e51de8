"""Scores block by block, then pictures of the examples that harm the queries most."""

from kedro.pipeline import Pipeline, node

from sourcetrace.pipelines.source_scoring.nodes import draw_suspects, score_examples


def create_pipeline() -> Pipeline:
    """Return the stage."""
    return Pipeline(
        [
            node(
                score_examples,
                inputs={
                    "checkpoints": "checkpoints",
                    "task": "task",
                    "checkpoint_manifest": "checkpoint_manifest",
                    "train_table": "train_table",
                    "query_table": "query_table",
                    "curvature": "curvature",
                    "gradient_cache": "gradient_cache",
                    "gradients": "params:gradients",
                    "attribution": "params:attribution",
                    "ensemble": "params:ensemble",
                    "batch_size": "batch_size",
                },
                outputs=[
                    "attribution_scores",
                    "query_influence",
                    "self_influence",
                    "segment_contributions",
                    "solve_metrics",
                ],
                name="score_examples",
            ),
            node(
                draw_suspects,
                inputs={
                    "task": "task",
                    "train_table": "train_table",
                    "query_influence": "query_influence",
                    "report": "params:report",
                },
                outputs="suspect_pictures",
                name="draw_suspects",
            ),
        ]
    )
