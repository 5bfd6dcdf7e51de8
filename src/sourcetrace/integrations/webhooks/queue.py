"""Audits that wait, and messages that were seen, in one SQLite file that outlives the process.

A message is remembered and its audit queued in one transaction: a crash loses neither or both,
and the sender, which got no answer, sends it again.
"""

import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from sourcetrace.integrations.webhooks.events import RequestedAudit
from sourcetrace.integrations.webhooks.signature import Refused

_TABLES = """
CREATE TABLE IF NOT EXISTS deliveries (id TEXT PRIMARY KEY, received REAL NOT NULL);
CREATE TABLE IF NOT EXISTS audits (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    model TEXT NOT NULL,
    version TEXT NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('waiting', 'running', 'ended')),
    attempts INTEGER NOT NULL DEFAULT 0,
    exit_code INTEGER,
    changed REAL NOT NULL
);
CREATE UNIQUE INDEX IF NOT EXISTS one_waiting
    ON audits (model, version) WHERE state = 'waiting';
"""

_DAY = 86_400.0
_KEPT_DAYS = 30
_MOST_ATTEMPTS = 3


@dataclass(frozen=True)
class QueuedAudit:
    """An audit that was taken from the queue."""

    number: int
    audit: RequestedAudit


class AuditQueue:
    """The queue in a file; its methods may be called from several threads.

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
        with self._connection() as database:
            database.executescript(_TABLES)

    def accept(self, delivery_id: str, audit: RequestedAudit | None) -> None:
        """Remember a message and queue what it asks for, unless the same waits already.

        Raises:
            Refused: 409 if the message was seen before.
        """
        now = self.now()
        with self._transaction() as database:
            database.execute("DELETE FROM deliveries WHERE received < ?", (now - self._remembered,))
            database.execute(
                "DELETE FROM audits WHERE state = 'ended' AND changed < ?",
                (now - _KEPT_DAYS * _DAY,),
            )
            try:
                database.execute("INSERT INTO deliveries VALUES (?, ?)", (delivery_id, now))
            except sqlite3.IntegrityError:
                raise Refused(409, "this message was delivered before") from None
            if audit is not None:
                database.execute(
                    "INSERT INTO audits (model, version, state, changed) "
                    "VALUES (?, ?, 'waiting', ?) ON CONFLICT DO NOTHING",
                    (audit.model, audit.version, now),
                )

    def take(self) -> QueuedAudit | None:
        """Return the audit that waited longest, which runs from now on; None if none waits."""
        with self._transaction() as database:
            row = database.execute(
                "UPDATE audits SET state = 'running', attempts = attempts + 1, changed = ? "
                "WHERE number = (SELECT min(number) FROM audits WHERE state = 'waiting') "
                "RETURNING number, model, version",
                (self.now(),),
            ).fetchone()
        return None if row is None else QueuedAudit(row[0], RequestedAudit(row[1], row[2]))

    def end(self, queued: QueuedAudit, *, exit_code: int) -> None:
        """Record how an audit ended."""
        with self._transaction() as database:
            self._end(database, queued.number, exit_code)

    def put_back(self, queued: QueuedAudit) -> None:
        """Let an audit wait again that was interrupted on purpose."""
        with self._transaction() as database:
            database.execute(
                "UPDATE audits SET attempts = attempts - 1 WHERE number = ?", (queued.number,)
            )
            self._wait_again(database, queued)

    def recover(self) -> list[RequestedAudit]:
        """Let audits wait again that ran when an earlier process was killed.

        Returns:
            Those that were cut off too often, and are given up.
        """
        with self._transaction() as database:
            cut = database.execute(
                "SELECT number, model, version, attempts FROM audits WHERE state = 'running'"
            ).fetchall()
            given_up = []
            for number, model, version, attempts in cut:
                audit = RequestedAudit(model, version)
                if attempts < _MOST_ATTEMPTS:
                    self._wait_again(database, QueuedAudit(number, audit))
                else:
                    given_up.append(audit)
                    self._end(database, number, None)
        return given_up

    def counts(self) -> dict[str, int]:
        """Return how many audits wait and run."""
        with self._connection() as database:
            found = dict(database.execute("SELECT state, count(*) FROM audits GROUP BY state"))
        return {state: found.get(state, 0) for state in ("waiting", "running")}

    def _wait_again(self, database: sqlite3.Connection, queued: QueuedAudit) -> None:
        # The same may have been asked for again in the meantime: one of them is enough.
        database.execute(
            "DELETE FROM audits WHERE state = 'waiting' AND model = ? AND version = ?",
            (queued.audit.model, queued.audit.version),
        )
        database.execute("UPDATE audits SET state = 'waiting' WHERE number = ?", (queued.number,))

    def _end(self, database: sqlite3.Connection, number: int, exit_code: int | None) -> None:
        database.execute(
            "UPDATE audits SET state = 'ended', exit_code = ?, changed = ? WHERE number = ?",
            (exit_code, self.now(), number),
        )

    @contextmanager
    def _connection(self) -> Iterator[sqlite3.Connection]:
        """Open the file: SQLite's connections are not for several threads."""
        database = sqlite3.connect(self._path, timeout=10, isolation_level=None)
        try:
            yield database
        finally:
            database.close()

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._connection() as database:
            database.execute("BEGIN IMMEDIATE")
            try:
                yield database
            except BaseException:
                database.execute("ROLLBACK")
                raise
            database.execute("COMMIT")
