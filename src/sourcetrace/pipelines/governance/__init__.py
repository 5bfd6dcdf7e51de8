"""What reviewers of the audited model are handed: a section for its card, a bill of materials."""

from sourcetrace.pipelines.governance.pipeline import create_pipeline, documents

__all__ = ["create_pipeline", "documents"]
