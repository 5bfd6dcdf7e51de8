"""The demo: digits with planted label errors, and a small network trained on them."""

from sourcetrace.pipelines.demo_training.pipeline import create_pipeline

__all__ = ["create_pipeline"]
