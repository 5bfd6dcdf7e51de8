"""The reports of each audited version, in a folder of its own: data/ has the last audit's alone."""

import shutil
from pathlib import Path

from kedro.io import DataCatalog

from sourcetrace.files import file_digest
from sourcetrace.locks import PROJECT_LOCK, RUN_LOCK
from sourcetrace.namespace import AuditCatalog, AuditNames

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
    audit = AuditCatalog(catalog, AuditNames())
    if not PROJECT_LOCK.acquire(audit.log.with_name(RUN_LOCK), wait=False):
        return None
    try:
        page, *others = (audit.file(name) for name in REPORTS)
        if page is None or file_digest(page) != page_sha256:
            return None
        folder: Path = audit.log.parent / FOLDER / model / version
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        for file in (page, *others):
            if file is not None:
                shutil.copy2(file, folder)
    finally:
        PROJECT_LOCK.release()
    return str(folder.relative_to(Path.cwd()) if folder.is_relative_to(Path.cwd()) else folder)
