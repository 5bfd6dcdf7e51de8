"""Audits that wait, and messages that were seen, in one SQLite file that outlives the process.

A message is remembered and its audit queued in one transaction: a crash loses neither or both,
and the sender, which got no answer, sends it again.
"""

import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from sourcetrace.integrations.webhooks.events import RequestedAudit
from sourcetrace.integrations.webhooks.signature import Refused

_TABLES = """
CREATE TABLE IF NOT EXISTS deliveries (id TEXT PRIMARY KEY, received REAL NOT NULL);
CREATE TABLE IF NOT EXISTS audits (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    model TEXT NOT NULL,
    version TEXT NOT NULL,
    state TEXT NOT NULL DEFAULT 'waiting' CHECK (state IN ('waiting', 'running')),
    attempts INTEGER NOT NULL DEFAULT 0,
    UNIQUE (model, version, state)
);
"""

_DAY = 86_400.0
_MOST_ATTEMPTS = 3


class AuditQueue:
    """The queue in a file; its methods may be called from several threads.

    One audit runs at a time.

    Args:
        path: Of the file; made where there is none.
        remember_seconds: How long a message is remembered, at least a day: a clock that is set
            back must not let it in again.
        now: The time in Unix seconds.
    """

    def __init__(
        self, path: Path, *, remember_seconds: float, now: Callable[[], float] = time.time
    ) -> None:
        self._path = path
        self._remembered = max(_DAY, remember_seconds)
        self.now = now
        path.parent.mkdir(parents=True, exist_ok=True)
        with self._transaction() as database:
            database.executescript(_TABLES)

    def accept(self, delivery_id: str, audit: RequestedAudit | None) -> None:
        """Remember a message and queue what it asks for, unless the same waits already.

        Raises:
            Refused: 409 if the message was seen before.
        """
        now = self.now()
        with self._transaction() as database:
            database.execute("DELETE FROM deliveries WHERE received < ?", (now - self._remembered,))
            try:
                database.execute("INSERT INTO deliveries VALUES (?, ?)", (delivery_id, now))
            except sqlite3.IntegrityError:
                raise Refused(409, "this message was delivered before") from None
            if audit is not None:
                database.execute(
                    "INSERT OR IGNORE INTO audits (model, version) VALUES (?, ?)", audit
                )

    def take(self) -> RequestedAudit | None:
        """Return the audit that waited longest, which runs from now on; None if none waits."""
        with self._transaction() as database:
            row = database.execute(
                "UPDATE OR REPLACE audits SET state = 'running', attempts = attempts + 1 "
                "WHERE number = (SELECT min(number) FROM audits WHERE state = 'waiting') "
                "RETURNING model, version"
            ).fetchone()
        return row and RequestedAudit(*row)

    def end(self) -> None:
        """Forget the audit that ran."""
        with self._transaction() as database:
            database.execute("DELETE FROM audits WHERE state = 'running'")

    def put_back(self, *, uncounted: bool = True) -> RequestedAudit | None:
        """Let the audit wait again that ran and was cut off.

        Args:
            uncounted: It was interrupted on purpose; False: its process was killed.

        Returns:
            An audit that was cut off too often, and is given up.
        """
        with self._transaction() as database:
            database.execute(
                "UPDATE audits SET attempts = attempts - ? WHERE state = 'running'", (uncounted,)
            )
            given_up = database.execute(
                "DELETE FROM audits WHERE state = 'running' AND attempts >= ? "
                "RETURNING model, version",
                (_MOST_ATTEMPTS,),
            ).fetchone()
            # In place of one that was asked for in the meantime: one of the same is enough.
            database.execute(
                "UPDATE OR REPLACE audits SET state = 'waiting' WHERE state = 'running'"
            )
        return given_up and RequestedAudit(*given_up)

    def counts(self) -> dict[str, int]:
        """Return how many audits wait and run."""
        with self._transaction() as database:
            found = dict(database.execute("SELECT state, count(*) FROM audits GROUP BY state"))
        return {state: found.get(state, 0) for state in ("waiting", "running")}

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        """Open the file, because SQLite's connections are not for several threads."""
        database = sqlite3.connect(self._path, timeout=10, isolation_level="IMMEDIATE")
        try:
            with database:
                yield database
        finally:
            database.close()
