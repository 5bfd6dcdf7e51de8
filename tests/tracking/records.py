"""A record of an audit, a server in a file, and a client that fails where a test says."""

from typing import Any

from sourcetrace.tracking.lineage.record import AuditRecord, CheckpointFile, DataRecord

DIGEST = "st1-" + "1" * 32
OTHER = "st1-" + "2" * 32


def audit_record(**changes: Any) -> AuditRecord:
    """Return the record of a small audit that passed."""
    values: dict[str, Any] = {
        "run_id": "r",
        "at": "2026-03-01T12:00:00+00:00",
        "status": "pass",
        "findings": (),
        "task": "churn.Task",
        "method": "source",
        "trust_status": "Verified",
        "trust_text": "retrained.",
        "training_examples": 100,
        "queries": 10,
        "relabel": 3,
        "check": 5,
        "attributed_share": 1.0,
        "training_data": DataRecord(DIGEST, 100, {"example_id": "String", "label": "Int64"}),
        "query_data": DataRecord("st1-" + "3" * 32, 10, {"example_id": "String"}),
        "checkpoints": tuple(
            CheckpointFile(f"step:{step}.pt", f"{step:064d}", step, "training", "", "SGD")
            for step in (10, 20)
        ),
        "report_sha256": "a" * 64,
        "key": {
            "sourcetrace": "0.1.0",
            "data": "d" * 16,
            "checkpoints": "c" * 16,
            "parameters": "b" * 16,
            "limits": "a" * 16,
        },
    }
    return AuditRecord(**{**values, **changes})


class Killed(BaseException):
    """Not an Exception: nothing tidies up after it, as after a kill."""


class FailingClient:
    """Passes calls on to a client, and raises instead of the one with this number.

    Args:
        client: An MlflowClient.
        fails_at: Number of the writing call that fails, from 0.
        error: What it raises.
    """

    _WRITES = ("set_", "delete_", "log_", "create_", "update_", "finalize_")

    def __init__(self, client: Any, fails_at: int, error: BaseException) -> None:
        self._client, self._left, self._error = client, fails_at, error
        self.failed = False

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._client, name)
        if not name.startswith(self._WRITES):
            return method

        def call(*arguments: Any, **named: Any) -> Any:
            self._left -= 1
            if self._left < 0:
                self.failed = True
                raise self._error
            return method(*arguments, **named)

        return call
