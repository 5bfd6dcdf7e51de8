"""The demo's answer key: how many planted errors the review list puts first."""

from sourcetrace.pipelines.demo_evaluation.pipeline import create_pipeline

__all__ = ["create_pipeline"]
