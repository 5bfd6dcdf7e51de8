"""A page in headless Chromium."""

import shutil
import subprocess
import tempfile

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)

OPTIONS = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]


def open_page(address: str, *options: str, seconds: int = 60) -> subprocess.CompletedProcess[str]:
    """Open a page in a new profile, and return what was asked for by the options.

    Raises:
        subprocess.SubprocessError: If it fails, or takes longer.
    """
    assert CHROMIUM is not None
    with tempfile.TemporaryDirectory() as profile:
        return subprocess.run(
            [
                CHROMIUM,
                "--headless",
                *OPTIONS,
                "--disable-background-networking",
                "--no-first-run",
                "--no-proxy-server",
                f"--user-data-dir={profile}",
                *options,
                address,
            ],
            capture_output=True,
            text=True,
            timeout=seconds,
            check=True,
        )
