"""The review list and the page, from tables alone."""

from sourcetrace.pipelines.cleaning_report.pipeline import create_pipeline

__all__ = ["create_pipeline"]
