"""Checkpoints and data, checked before anything expensive starts."""

from sourcetrace.pipelines.checkpoint_ingest.pipeline import create_pipeline

__all__ = ["create_pipeline"]
