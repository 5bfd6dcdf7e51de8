"""The page comes after the verdict and before it is enforced.

What other stages say of an audit is read where it is: a record of other scores is left out.
"""

from kedro.pipeline import Pipeline

from sourcetrace.pipelines.page.nodes import gather_tables, render_page
from sourcetrace.pipelines.shared.step import step


def create_pipeline() -> Pipeline:
    """Return the pipeline; every part of an audit that changes the page ends with it."""
    return Pipeline([step(gather_tables, "page_content"), step(render_page, "cleaning_report")])
