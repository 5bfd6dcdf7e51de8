"""Of every format, what is fetched is all that its reader reads: the digests are the same."""

import fsspec
import pytest

from sourcetrace.checkpoints.folder import CheckpointFolder
from sourcetrace.checkpoints.places.fetched import fetch
from sourcetrace.checkpoints.places.filesystems import FileSystemSource
from tests.checkpoints.test_same_training import WRITERS, pytestmark  # noqa: F401


@pytest.mark.parametrize("write", WRITERS)
def test_what_every_library_saves_is_fetched_whole(write, tmp_path):
    folder = tmp_path / "saved"
    folder.mkdir()
    write(folder, "AdamW")
    memory = fsspec.filesystem("memory")
    memory.put(str(folder), "/bucket/run", recursive=True)
    try:
        fetched = fetch(FileSystemSource("memory://bucket/run", {}), str(tmp_path / "cache"))
    finally:
        memory.rm("/bucket", recursive=True)
    here, there = CheckpointFolder(folder), CheckpointFolder(fetched)
    assert here.digests() == there.digests()
    assert len(here.digests()) >= 3
