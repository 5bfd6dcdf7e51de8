"""The page comes after the verdict and before it is enforced.

What other stages say of an audit is read where it is: a record of other scores is left out.
"""

from kedro.pipeline import Pipeline, node

from sourcetrace.pipelines.page.nodes import gather_tables, render_page


def create_pipeline() -> Pipeline:
    """Return the pipeline; every part of an audit that changes the page ends with it."""
    return Pipeline(
        [
            node(
                gather_tables,
                inputs=[
                    "audit_summary",
                    "review_list",
                    "train_table",
                    "checkpoint_manifest",
                    "unattributed_parameters",
                    "segment_contributions",
                    "example_signals",
                    "curvature_spectra",
                    "suspect_pictures",
                ],
                outputs="page_content",
                name="gather_tables",
            ),
            node(
                render_page,
                inputs=[
                    "page_content",
                    "verification_summary",
                    "verification_queries",
                    "verification_removals",
                    "comparison_summary",
                    "audit_comparison",
                    "gate_report",
                    "ground_truth",
                ],
                outputs="cleaning_report",
                name="render_page",
            ),
        ]
    )
