"""The counter of multiplications: what counts, and what does not."""

import torch
from benchmarks.multiplications import MultiplicationCounter

from sourcetrace.core.machine.products import multiplied


def multiply(rows):
    return torch.ones(rows, 3) @ torch.ones(3, 5)


def test_products_and_eigenvectors_are_counted_and_elementwise_work_is_not():
    with MultiplicationCounter() as counter:
        _ = multiply(2) * 7
        torch.nn.functional.conv1d(torch.ones(2, 3, 8), torch.ones(4, 3, 3))
        torch.linalg.eigh(torch.eye(4).expand(2, 4, 4))
    assert counter.total == 2 * 3 * 5 + 2 * 4 * 6 * 3 * 3 + 2 * 9 * 4**3
    multiply(2)
    assert counter.total == 2 * 3 * 5 + 2 * 4 * 6 * 3 * 3 + 2 * 9 * 4**3


def test_backward_passes_are_counted():
    weight = torch.ones(5, 3, requires_grad=True)
    inputs = torch.ones(2, 3, requires_grad=True)
    with MultiplicationCounter() as counter:
        loss = torch.nn.functional.linear(inputs, weight).sum()
        torch.autograd.grad(loss, [inputs, weight])
    assert counter.total == 3 * (2 * 3 * 5)


def test_large_products_are_counted_whichever_library_multiplies():
    with MultiplicationCounter() as counter:
        multiplied(torch.ones(256, 128), torch.ones(128, 160))
    assert counter.total == 256 * 128 * 160
