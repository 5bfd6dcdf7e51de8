import subprocess
import sys

import pytest
import torch
from benchmarks.device_timer import DeviceTimer, matrix_multiply_rates

from benchmarks import gpu
from tests import REPOSITORY
from tests.tiny import CPU, assert_close, seeded


def _case(name: str) -> gpu.Case:
    given = gpu._parse(["--device", "cpu", "--small"])
    with seeded(0):
        return gpu.mlp_case(given, CPU) if name == "mlp" else gpu.decoder_case(given, CPU)


@pytest.mark.parametrize("name", ["mlp", "decoder"])
def test_timing_and_counting_leave_the_scores_alone(name: str) -> None:
    case = _case(name)
    timed, counted = DeviceTimer(CPU), DeviceTimer(CPU, count=True)
    with seeded(1):
        one = gpu.run_stages(case, CPU, timed)
    with seeded(1):
        other = gpu.run_stages(case, CPU, counted)
    assert one.shape == (len(case.queries), len(case.training))
    assert_close(other, one, tolerance=1e-6)
    assert set(timed.seconds()) == set(counted.operations()) == set(gpu.STAGES)
    uncounted = {stage for stage, count in counted.operations().items() if count == 0}
    assert uncounted == {gpu.EIGENDECOMPOSITION}


def test_products_are_counted_as_two_operations_a_multiplication() -> None:
    timer = DeviceTimer(CPU, count=True)
    for _ in range(2):
        with timer.stage("product"):
            torch.ones(3, 4) @ torch.ones(4, 5)
    assert timer.operations() == {"product": 2 * 2 * 3 * 4 * 5}


def test_rates_leave_the_precision_as_it_was() -> None:
    before = torch.get_float32_matmul_precision()
    rates = matrix_multiply_rates(CPU, size=16, repeats=1)
    assert set(rates) == {"float32", "bfloat16"}
    assert torch.get_float32_matmul_precision() == before


def test_the_tables_are_printed(capsys: pytest.CaptureFixture[str]) -> None:
    with seeded(0):
        gpu.main(["--device", "cpu", "--small", "--repeats", "1", "--warm-up", "0"])
    printed = capsys.readouterr().out
    for expected in ("torch 2.", "MLP 24–16–12–10", "decoder of 2 layers", "of float32"):
        assert expected in printed
    assert printed.count("corrected eigenvalues") == 2


@pytest.mark.slow
def test_torch_and_the_core_are_enough() -> None:
    code = "import sys, benchmarks.gpu\nprint(*{name.split('.')[0] for name in sys.modules})"
    done = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=REPOSITORY
    )
    loaded = set(done.stdout.split())
    assert "torch" in loaded
    assert not loaded & {"kedro", "mlflow", "polars", "pydantic", "rich", "kronfluence", "pandera"}
