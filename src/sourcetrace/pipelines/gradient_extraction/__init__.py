"""Gradients of every example at every checkpoint, and what they show."""

from sourcetrace.pipelines.gradient_extraction.pipeline import create_pipeline

__all__ = ["create_pipeline"]
