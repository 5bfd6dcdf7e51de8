"""Hold the audit against the limits that are set, and end the run where it fails."""

from sourcetrace.pipelines.gate.pipeline import create_pipeline

__all__ = ["create_pipeline"]
