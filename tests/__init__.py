"""The tests; their tree mirrors the source's."""

from pathlib import Path

REPOSITORY = Path(__file__).parents[1]
