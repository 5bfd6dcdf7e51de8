"""One node: eigenbases and corrected eigenvalues."""

from kedro.pipeline import Pipeline, node

from sourcetrace.pipelines.ekfac_fitting.nodes import fit_curvature


def create_pipeline() -> Pipeline:
    """Return the stage."""
    return Pipeline(
        [
            node(
                fit_curvature,
                inputs={
                    "checkpoints": "checkpoints",
                    "task": "task",
                    "checkpoint_manifest": "checkpoint_manifest",
                    "train_table": "train_table",
                    "query_table": "query_table",
                    "covariances": "covariances",
                    "gradient_cache": "gradient_cache",
                    "gradients": "params:gradients",
                    "attribution": "params:attribution",
                    "ensemble": "params:ensemble",
                    "batch_size": "batch_size",
                },
                outputs=["curvature", "curvature_spectra", "curvature_metrics"],
                name="fit_curvature",
            )
        ]
    )
