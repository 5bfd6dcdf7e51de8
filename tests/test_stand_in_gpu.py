"""The stand-in for a GPU refuses what one does."""

import pytest
import torch

from tests.stand_in_gpu import stand_in

ONES = torch.ones(3)


@pytest.fixture
def gpu(monkeypatch):
    with stand_in(monkeypatch) as seen:
        yield seen


@pytest.mark.parametrize(
    "mix",
    [
        lambda one: one + ONES,
        lambda one: ONES.clone().add_(one[0]),
        lambda one: one[torch.zeros(3, dtype=torch.long)].add_(ONES),
        lambda one: torch.stack([one[0], torch.ones(())]),
        lambda one: ONES[one.long()],
        lambda one: one.long() @ one.long(),
        lambda one: torch.rand(3, device="cuda", generator=torch.Generator()),
    ],
)
def test_devices_do_not_mix(gpu, mix):
    with pytest.raises(RuntimeError):
        mix(torch.ones(3, device="cuda"))
    assert gpu.refused


def test_its_numbers_are_asked_for_by_way_of_the_cpu(gpu):
    one = torch.tensor([1.0, 2.0], device="cuda")
    with pytest.raises(TypeError, match="to numpy"):
        one.numpy()
    assert (one * torch.tensor(2.0)).cpu().numpy().tolist() == [2, 4]
    assert one.tolist() == [1, 2]
    assert float(one[1]) == 2
    assert gpu.refused == []


def test_a_network_is_moved_and_differentiated_there(gpu):
    network = torch.nn.Linear(3, 2).to("cuda")
    network(torch.ones(4, 3, device="cuda")).sum().backward()
    assert network.weight.grad.device == torch.device("cuda:0")
    assert network.weight.grad.cpu().tolist() == [[4, 4, 4], [4, 4, 4]]


def test_it_goes_when_it_is_closed(monkeypatch):
    with monkeypatch.context() as patch, stand_in(patch):
        assert torch.cuda.is_available()
    assert not torch.cuda.is_available()
    with pytest.raises((AssertionError, RuntimeError)):
        torch.zeros(1, device="cuda")
