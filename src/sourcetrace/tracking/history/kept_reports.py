"""The reports of each audited version, in a folder of its own: data/ has the last audit's alone."""

import hashlib
import shutil
from pathlib import Path
from typing import Any

from kedro.io import DataCatalog

from sourcetrace.locks import PROJECT_LOCK, RUN_LOCK

FOLDER = "versions"
"""Beside the history of audits."""

REPORTS = (
    "cleaning_report",
    "review_list",
    "review_list_csv",
    "gate_report",
    "gate_junit",
    "audit_result",
)
"""Catalog entries that are kept."""


def keep_reports(
    catalog: DataCatalog, model: str, version: str, *, page_sha256: str | None
) -> str | None:
    """Copy a version's reports, and return their folder.

    None where another run has begun to write, or has written, since: MLflow has them then.

    Args:
        catalog: Of the project.
        model: Name of the registered model.
        version: Its number.
        page_sha256: What the registry says of its page.
    """
    log: Any = catalog["audit_log"]
    files = [_path_of(catalog, name) for name in REPORTS]
    if not PROJECT_LOCK.acquire(log.path.with_name(RUN_LOCK), wait=False):
        return None
    try:
        page = files[0]
        if page is None or hashlib.sha256(page.read_bytes()).hexdigest() != page_sha256:
            return None
        folder: Path = log.path.parent / FOLDER / model / version
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        for file in files:
            if file is not None:
                shutil.copy2(file, folder)
    finally:
        PROJECT_LOCK.release()
    return str(folder.relative_to(Path.cwd()) if folder.is_relative_to(Path.cwd()) else folder)


def _path_of(catalog: DataCatalog, name: str) -> Path | None:
    """Return the file of an entry; None where there is none."""
    path = getattr(catalog[name], "_filepath", None) if name in catalog else None
    return Path(path) if path is not None and Path(path).is_file() else None
