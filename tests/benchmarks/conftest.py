import logging
from collections.abc import Iterator, Sequence
from importlib import import_module
from pathlib import Path

import pytest
from benchmarks.measurement import Measurement
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


@pytest.fixture
def measured_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let scripts measure in this process: starting one costs more than these sizes take."""

    def measure(
        _: Path | str, module: str, arguments: Sequence[object], **__: object
    ) -> Measurement:
        file = tmp_path / "measurement.json"
        given = [*map(str, arguments), "--measurement", str(file)]
        import_module(module).main(given)
        return Measurement.read(file)

    for script in ("speed", "scaling"):
        monkeypatch.setattr(f"benchmarks.{script}.measure_in_process", measure)
