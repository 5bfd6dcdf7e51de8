"""Send what MLflow was not told of.

Audits are sent in the order in which they ended; the first that cannot be sent stops it, and it
and all later ones stay in the file.
"""

from pathlib import Path

from mlflow.tracking import MlflowClient

from sourcetrace.tracking.pending import read_pending, remove_pending
from sourcetrace.tracking.publish import send_again

PENDING = "pending_lineage.json"
"""Beside the history of audits."""


def send_pending(client: MlflowClient, *, pending: Path, log: Path) -> int:
    """Send every audit that waits, and return how many there were."""
    records = read_pending(pending)
    for record in records:
        send_again(client, record, log=log)
        remove_pending(pending, record)
    return len(records)
