"""The account of what a run did: what is counted, by whom, and how often."""

import pytest
import torch

from sourcetrace.core.machine.eigenvectors import eigenvectors
from sourcetrace.core.machine.matmul_rate import matmul_rate
from sourcetrace.core.machine.multiplications import MultiplicationCounter
from sourcetrace.core.machine.work import StageWork, Work
from sourcetrace.core.methods.fit import fit_segment
from sourcetrace.tasks import ClassificationTask
from tests.tiny import CPU, case_plan, covariances_at, gradient_source, tiny_case


def multiply(rows):
    return torch.ones(rows, 3) @ torch.ones(3, 5)


def test_products_and_eigenvectors_are_counted_and_elementwise_work_is_not(monkeypatch):
    monkeypatch.setattr("sourcetrace.core.machine.eigenvectors._LARGE", 5)
    with MultiplicationCounter() as counter:
        _ = multiply(2) * 7
        torch.nn.functional.conv1d(torch.ones(2, 3, 8), torch.ones(4, 3, 3))
        torch.linalg.eigh(torch.eye(4).expand(2, 4, 4))
        eigenvectors(torch.eye(5).expand(3, 5, 5))
    assert counter.total == 2 * 3 * 5 + 2 * 4 * 6 * 3 * 3 + 2 * 9 * 4**3 + 3 * 9 * 5**3
    multiply(2)
    eigenvectors(torch.eye(2).unsqueeze(0))
    assert counter.total == 2 * 3 * 5 + 2 * 4 * 6 * 3 * 3 + 2 * 9 * 4**3 + 3 * 9 * 5**3


def test_backward_passes_are_counted():
    weight = torch.ones(5, 3, requires_grad=True)
    inputs = torch.ones(2, 3, requires_grad=True)
    with MultiplicationCounter() as counter:
        loss = torch.nn.functional.linear(inputs, weight).sum()
        torch.autograd.grad(loss, [inputs, weight])
    assert counter.total == 3 * (2 * 3 * 5)


def test_calls_after_the_first_count_by_their_size():
    work = Work(CPU)
    with work.stage("scoring"):
        for rows in (4, 2, 6):
            with work.counted("product", units=rows):
                # What comes after the counted calls is not looked at.
                multiply(rows if rows != 6 else 1)
    assert work.per_unit("product") == 15
    assert work.stages["scoring"].multiplications == (4 + 2 + 6) * 15


def test_of_calls_inside_calls_the_outer_one_counts():
    work = Work(CPU)
    with work.stage("scoring"):
        for _ in range(4):
            with work.counted("outer", units=1), work.counted("inner", units=1):
                multiply(2)
    assert work.stages["scoring"].multiplications == 4 * 30
    assert work.per_unit("inner") == 0


def test_a_stage_that_is_entered_again_goes_on_and_outside_of_one_nothing_counts():
    work = Work(CPU)
    work.count(1000)
    for _ in range(2):
        with work.stage("one") as stage:
            work.count(7)
        seconds = stage.seconds
    assert stage.multiplications == 14
    assert seconds > 0
    with work.stage("two"):
        pass
    assert work.stages["two"].multiplications == 0


def test_a_call_that_fails_leaves_no_counter_behind():
    work = Work(CPU)
    with pytest.raises(ValueError, match="broken"), work.counted("product", units=1):
        raise ValueError("broken")
    with work.stage("two"), work.counted("product", units=2):
        multiply(2)
    multiply(100)
    assert work.stages["two"].multiplications == 30


def test_the_share_is_the_time_that_the_rate_would_have_needed():
    assert StageWork(multiplications=30, seconds=2.0).share_of(60.0) == 0.25
    assert StageWork().share_of(60.0) == 0.0


def test_the_rate_is_measured_once():
    rate = matmul_rate(CPU, torch.float32)
    assert rate > 1e6
    assert matmul_rate(CPU, torch.float32) == rate


def test_counting_changes_no_number():
    """The first calls of a kind run under the counter, later ones do not."""
    case = tiny_case("aaaaaaaa")
    source = gradient_source(case, ClassificationTask())
    (planned,) = case_plan(case, "source", segments=1).segments
    covariances = {point.id: covariances_at(source, point) for point in planned.points}
    plain = fit_segment(source, planned, covariances)
    with MultiplicationCounter():
        counted = fit_segment(source, planned, covariances)
    for name, block in plain.items():
        assert torch.equal(block.eigenvalues, counted[name].eigenvalues)
