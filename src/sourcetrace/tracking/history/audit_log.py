"""The history of audits: lines of JSON that are only ever added, each sealed by the next.

    hash_n = SHA-256(row_n without its hash),   row_n holds hash_{n−1}

An edited row no longer fits its hash, a dropped or moved one leaves a gap. Rows dropped from the
end would leave none, so a file beside the log, its head, holds the last row's number and hash. A
person who rewrites both files is found out by the runs' tags in MLflow (`audit.log_hash`).
"""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from filelock import FileLock

from sourcetrace.files import write_json
from sourcetrace.schemas import AuditLog

FIRST = "0" * 64
"""Stands for the row before the first."""


_COLUMNS = frozenset(AuditLog.columns())


class AuditHistory:
    """The history in a file.

    Attributes:
        path: Of the file; it need not be there.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._head = path.with_name(f"{path.stem}.head.json")

    def append(self, entry: Mapping[str, Any]) -> dict[str, Any]:
        """Add a row and return it; the file may be killed at any moment and shared with others.

        A line that a killed writer left unfinished is removed first. Rows that are there stay as
        they are, edited ones too: the edit must remain visible.

        Args:
            entry: What is recorded of an audit: the columns of `schemas.AuditLog` but the number
                and the hashes.

        Raises:
            ValueError: If it has other columns.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{self.path}.lock"):
            lines, unfinished = self._lines()
            head = self._read_head()
            last = _parse(lines[-1]) if lines else None
            sequence, previous = len(lines), FIRST
            if last is not None:
                sequence, previous = last["sequence"], last["hash"]
            if head is not None and (last is None or head["sequence"] > sequence):
                sequence, previous = head["sequence"], head["hash"]
            row = {"sequence": sequence + 1, **entry, "previous_hash": previous}
            row["hash"] = _hash(row)
            if row.keys() != _COLUMNS:
                raise ValueError(f"A row's columns differ from the log's: {row.keys() ^ _COLUMNS}.")
            if unfinished:
                os.truncate(self.path, sum(len(line) + 1 for line in lines))
            # A complete last row may lack no more than its line end.
            complete = not self.path.exists() or self.path.read_bytes()[-1:] in {b"", b"\n"}
            with self.path.open("ab") as file:
                file.write((b"" if complete else b"\n") + _canonical(row) + b"\n")
                file.flush()
                os.fsync(file.fileno())
            write_json(self._head, {name: row[name] for name in ("sequence", "hash")})
        return row

    def read(self) -> list[dict[str, Any]]:
        """Return the rows that can be read, in their order; none where there is no log."""
        return [row for line in self._lines()[0] if (row := _parse(line)) is not None]

    def verify(self, *, anchors: Mapping[str, Sequence[str]] | None = None) -> list[str]:
        """Return what is wrong with the log, a sentence each; nothing where it is as written.

        Args:
            anchors: Run id -> hashes that its rows had when they were written, from MLflow's tags;
                with them a log that somebody rewrote from end to end is found out, too.
        """
        lines, _ = self._lines()
        head = self._read_head()
        problems: list[str] = []
        # What the next row may name as the hash before it: an edited row's is reported once only.
        expected, number = {FIRST}, 0
        for place, line in enumerate(lines, 1):
            row = _parse(line)
            if row is None:
                problems.append(f"Line {place} is no row of the log: it was edited.")
                expected, number = set(), number + 1
                continue
            computed = _hash(row)
            name = f"Row {row['sequence']} (line {place})"
            edited = computed != row["hash"] or _canonical(row) != line
            if edited:
                problems.append(f"{name} was edited: it does not fit its hash.")
            elif row["sequence"] != number + 1 or (
                expected and row["previous_hash"] not in expected
            ):
                problems.append(_gap(name, row["sequence"], number))
            elif anchors is not None and computed not in anchors.get(row["run_id"], [computed]):
                problems.append(
                    f"{name} is not the one that MLflow's run {row['run_id']} was told of."
                )
            # An edited number says nothing of its neighbours.
            number = number + 1 if edited else row["sequence"]
            expected = {row["hash"], computed}
            sealed = head["hash"] if head and head["sequence"] == row["sequence"] else row["hash"]
            if not edited and row["hash"] != sealed:
                problems.append(f"{name} is not the one that was written: the log was rewritten.")
        if head is not None and head["sequence"] > number:
            problems.append(f"{_rows(number + 1, head['sequence'])} dropped from the end.")
        if head is None and (len(lines) > 1 or self._head.exists()):
            problems.append(
                f"{self._head.name} is missing or damaged: rows may have been dropped from the end."
            )
        return problems

    def _lines(self) -> tuple[list[bytes], bytes]:
        """Return the complete lines, and what follows them where a writer was killed."""
        try:
            content = self.path.read_bytes()
        except FileNotFoundError:
            return [], b""
        *lines, rest = content.split(b"\n")
        row = _parse(rest)
        if row is not None and row["hash"] == _hash(row):
            return [*lines, rest], b""
        return lines, rest

    def _read_head(self) -> dict[str, Any] | None:
        try:
            head = json.loads(self._head.read_bytes())
            return {"sequence": int(head["sequence"]), "hash": str(head["hash"])}
        except (OSError, ValueError, KeyError, TypeError):
            return None


def _rows(first: int, last: int) -> str:
    return f"Row {first} was" if first == last else f"Rows {first} to {last} were"


def _gap(name: str, sequence: int, before: int) -> str:
    if sequence > before + 1:
        return f"{_rows(before + 1, sequence - 1)} dropped before row {sequence}."
    if sequence == before + 1:
        return f"{name} does not follow the row before it: that one was exchanged."
    return f"{name} was moved or repeated: it stands after row {before}."


def _parse(line: bytes) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
    except ValueError:
        return None
    if not isinstance(row, dict) or set(row) != _COLUMNS or type(row["sequence"]) is not int:
        return None
    # Unhashable where edited to a list.
    return row if isinstance(row["hash"], str) and isinstance(row["previous_hash"], str) else None


def _canonical(row: Mapping[str, Any]) -> bytes:
    return json.dumps(row, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode(
        "utf-8", "surrogatepass"
    )


def _hash(row: Mapping[str, Any]) -> str:
    sealed = {name: value for name, value in row.items() if name != "hash"}
    return hashlib.sha256(_canonical(sealed)).hexdigest()
