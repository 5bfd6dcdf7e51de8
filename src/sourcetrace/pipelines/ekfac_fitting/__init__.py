"""The EK-FAC curvature of every segment."""

from sourcetrace.pipelines.ekfac_fitting.pipeline import create_pipeline

__all__ = ["create_pipeline"]
