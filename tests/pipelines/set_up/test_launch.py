"""How many processes there are, and what each takes of the machine."""

import pytest
import torch

from sourcetrace.errors import InputError
from sourcetrace.parameters import LaunchParameters
from sourcetrace.pipelines.set_up import launch
from sourcetrace.pipelines.set_up.launch import make_team
from sourcetrace.work.crew import CREW


@pytest.fixture(autouse=True)
def _threads_as_before():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture
def under(monkeypatch):
    """Return what makes this process one that torchrun started."""

    def be(rank, size, **others):
        for name, value in {"RANK": rank, "WORLD_SIZE": size, **others}.items():
            monkeypatch.setenv(name, str(value))

    return be


def team(folder, **parameters):
    return make_team(LaunchParameters(**parameters), folder)


def test_a_process_alone_has_all_threads(tmp_path):
    torch.set_num_threads(2)
    alone = team(tmp_path)
    assert (alone.rank, alone.size, torch.get_num_threads()) == (0, 1, 2)


def test_cores_are_shared_out_among_the_processes_of_a_machine(tmp_path, monkeypatch, under):
    monkeypatch.setattr(launch, "available_cores", lambda: 8)
    assert team(tmp_path, processes=3).size == 3
    assert torch.get_num_threads() == 2
    team(tmp_path, processes=16)
    assert torch.get_num_threads() == 1
    team(tmp_path, processes=3, threads=5)
    assert torch.get_num_threads() == 5
    under(5, 8, LOCAL_WORLD_SIZE=2)
    found = team(tmp_path, processes=8)
    assert (found.rank, found.size, torch.get_num_threads()) == (5, 8, 4)


def test_another_number_than_was_started_is_refused(tmp_path, under):
    under(1, 4)
    assert team(tmp_path).size == 4
    with pytest.raises(InputError, match=r"launch\.processes is 2, but 4 processes were started"):
        team(tmp_path, processes=2)


def test_others_are_called_with_the_threads_of_the_first(tmp_path, monkeypatch):
    called = []
    monkeypatch.setattr(CREW, "call", lambda stage, **how: called.append((stage, how)))
    team(tmp_path, processes=2, threads=3).call("ekfac_fitting")
    assert called == [("ekfac_fitting", {"size": 2, "threads": 3})]
