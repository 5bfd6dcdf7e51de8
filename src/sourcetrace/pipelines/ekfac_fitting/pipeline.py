"""The set-up, then eigenbases and corrected eigenvalues."""

from kedro.pipeline import Pipeline, node

from sourcetrace.pipelines.ekfac_fitting.nodes import fit_curvature
from sourcetrace.pipelines.shared.set_up import set_up_nodes


def create_pipeline() -> Pipeline:
    """Return the stage."""
    return Pipeline(
        [
            *set_up_nodes(),
            node(
                fit_curvature,
                inputs={"audit_setup": "audit_setup", "covariances": "covariances"},
                outputs=["curvature", "curvature_spectra", "curvature_metrics"],
                name="fit_curvature",
            ),
        ]
    )
