"""MLflow's own pages in headless Chromium: their document once it is drawn, and a picture."""

import shutil
import subprocess
import tempfile
from pathlib import Path

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)

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
    assert CHROMIUM is not None
    with tempfile.TemporaryDirectory() as profile:
        run = subprocess.run(
            [
                CHROMIUM,
                "--headless",
                "--no-sandbox",
                "--disable-gpu",
                "--disable-dev-shm-usage",
                "--disable-background-networking",
                "--no-first-run",
                "--no-proxy-server",
                f"--virtual-time-budget={_DRAWN_AFTER}",
                f"--user-data-dir={profile}",
                *options,
                address,
            ],
            capture_output=True,
            text=True,
            timeout=180,
            check=True,
        )
    return run.stdout
