"""Scores of every training example for every query, and for itself."""

from sourcetrace.pipelines.source_scoring.pipeline import create_pipeline

__all__ = ["create_pipeline"]
