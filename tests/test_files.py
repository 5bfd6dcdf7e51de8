"""Digests of files that are computed once."""

import hashlib
import os
from pathlib import Path

import pytest

from sourcetrace.files import file_digest


@pytest.mark.parametrize("old", [False, True])
def test_a_digest_is_of_what_the_file_holds_now(tmp_path, old):
    file = tmp_path / "file"
    for content in (b"one", b"two", b"two", b"three"):
        file.write_bytes(content)
        if old:
            os.utime(file, (0, 0))
        assert file_digest(file) == hashlib.sha256(content).hexdigest()


def test_a_file_that_did_not_change_is_read_once(tmp_path, monkeypatch):
    file = tmp_path / "file"
    file.write_bytes(b"one")
    reads = []
    real = Path.open
    monkeypatch.setattr(Path, "open", lambda path, mode: reads.append(path) or real(path, mode))
    monkeypatch.setattr("sourcetrace.files._COARSE", 0)
    assert file_digest(file) == file_digest(file)
    assert reads == [file]
