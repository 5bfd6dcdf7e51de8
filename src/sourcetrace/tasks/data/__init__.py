"""A task's data from files, entries of the catalog and data frames (docs/reference/tasks.md)."""

from sourcetrace.tasks.data.arrays import ArrayData
from sourcetrace.tasks.data.images import ImageData
from sourcetrace.tasks.data.language import LanguageData
from sourcetrace.tasks.data.tables import TableData
from sourcetrace.tasks.data.texts import TextData

__all__ = ["ArrayData", "ImageData", "LanguageData", "TableData", "TextData"]
