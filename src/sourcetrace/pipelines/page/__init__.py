"""The page, rendered once, when everything that it shows is written."""

from sourcetrace.pipelines.page.pipeline import create_pipeline

__all__ = ["create_pipeline"]
