"""The set-up, scores block by block, then pictures of the examples that harm the queries most."""

from kedro.pipeline import Pipeline, node

from sourcetrace.pipelines.shared.set_up import set_up_nodes
from sourcetrace.pipelines.source_scoring.nodes import draw_suspects, score_examples


def create_pipeline() -> Pipeline:
    """Return the stage."""
    return Pipeline(
        [
            *set_up_nodes(),
            node(
                score_examples,
                inputs={"audit_setup": "audit_setup", "curvature": "curvature"},
                outputs=[
                    "attribution_scores",
                    "query_influence",
                    "self_influence",
                    "segment_contributions",
                    "solve_metrics",
                ],
                # Written block by block: they are complete when the node is.
                confirms=[
                    "attribution_scores",
                    "query_influence",
                    "self_influence",
                    "segment_contributions",
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
