"""MLflow's own pages in headless Chromium: their document once it is drawn, and a picture."""

from pathlib import Path

from tests.chromium import open_page

_DRAWN_AFTER = 20_000
"""Milliseconds of the page's own clock, which runs on whenever nothing is loading."""


def version_page(server: str, model: str, version: str) -> str:
    """Return the address of a model version's page."""
    return f"{server}/#/models/{model}/versions/{version}"


def run_page(server: str, experiment: str, run_id: str) -> str:
    """Return the address of a run's page."""
    return f"{server}/#/experiments/{experiment}/runs/{run_id}"


def document(address: str) -> str:
    """Return the page's HTML after its scripts have drawn it."""
    return _visit(address, "--dump-dom")


def take_picture(address: str, file: Path, *, height: int = 1400) -> None:
    """Write a picture of the page, 1,400 pixels wide."""
    _visit(address, f"--screenshot={file}", f"--window-size=1400,{height}", "--hide-scrollbars")


def _visit(address: str, *options: str) -> str:
    budget = f"--virtual-time-budget={_DRAWN_AFTER}"
    return open_page(address, budget, *options, seconds=180).stdout
