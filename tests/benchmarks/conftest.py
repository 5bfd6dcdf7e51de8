import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
from benchmarks.workloads import Workload, prepare, random_data

TINY = Workload("mlp", (6, 5, 4, 10), 24, 3, epochs=2, checkpoints=4, batch_size=8)


@pytest.fixture(autouse=True)
def _logging_as_before() -> Iterator[None]:
    yield
    logging.disable(logging.NOTSET)  # the measured modules silence the ingest


@pytest.fixture
def tiny_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "tiny"
    folder.mkdir()
    prepare(TINY, folder, random_data(TINY))
    return folder
