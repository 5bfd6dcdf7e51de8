"""Real retraining, to say how far the scores can be trusted."""

from sourcetrace.pipelines.verification.pipeline import create_pipeline

__all__ = ["create_pipeline"]
