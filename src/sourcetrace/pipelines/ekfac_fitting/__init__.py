"""The EK-FAC curvature of every segment: the set-up, eigenbases and corrected eigenvalues."""

from kedro.pipeline import Pipeline

from sourcetrace.pipelines.ekfac_fitting.nodes import fit_curvature
from sourcetrace.pipelines.shared.set_up import set_up_nodes
from sourcetrace.pipelines.shared.step import step


def create_pipeline() -> Pipeline:
    """Return the stage."""
    made = ["curvature", "curvature_spectra", "curvature_metrics"]
    return Pipeline([*set_up_nodes(), step(fit_curvature, made)])
