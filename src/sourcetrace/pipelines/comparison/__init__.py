"""Set the audit beside the one before it, and keep it for the next."""

from sourcetrace.pipelines.comparison.pipeline import create_pipeline

__all__ = ["create_pipeline"]
