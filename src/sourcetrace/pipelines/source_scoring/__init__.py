"""The set-up, scores block by block, then pictures of the examples that harm the queries most."""

from kedro.pipeline import Pipeline

from sourcetrace.pipelines.shared.set_up import set_up_nodes
from sourcetrace.pipelines.shared.step import step
from sourcetrace.pipelines.source_scoring.nodes import draw_suspects, score_examples


def create_pipeline() -> Pipeline:
    """Return the stage."""
    by_block = ["attribution_scores", "query_influence", "self_influence", "segment_contributions"]
    return Pipeline(
        [
            *set_up_nodes(),
            step(score_examples, [*by_block, "solve_metrics"], confirms=by_block),
            step(draw_suspects, "suspect_pictures", report="params:report"),
        ]
    )
