"""A process knows its rank from who started it."""

import os

import pytest

from sourcetrace.errors import InputError
from sourcetrace.work.ranks import Rank, as_alone

TORCHRUN = {
    "RANK": "3",
    "WORLD_SIZE": "4",
    "LOCAL_RANK": "1",
    "MASTER_ADDR": "first",
    "MASTER_PORT": "29500",
}
STEP = {
    "SLURM_PROCID": "5",
    "SLURM_STEP_NUM_TASKS": "8",
    "SLURM_LOCALID": "1",
    "SLURM_JOB_ID": "77",
    "SLURM_STEP_ID": "0",
}


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, Rank()),
        (TORCHRUN, Rank(3, 4, 1, "first:29500")),
        (TORCHRUN | {"TORCHELASTIC_RUN_ID": "night"}, Rank(3, 4, 1, "night")),
        (STEP, Rank(5, 8, 1, "77:0")),
        # torchrun in a step, and a process that an audit under torchrun started itself.
        (STEP | TORCHRUN, Rank(3, 4, 1, "first:29500")),
        (
            TORCHRUN | {"SOURCETRACE_RANK": "1", "SOURCETRACE_PROCESSES": "2"},
            Rank(1, 2, 1, "first:29500"),
        ),
        # A job's manifest may say no more than this.
        ({"RANK": "1", "WORLD_SIZE": "2"}, Rank(1, 2, 0, ":")),
        # A batch script is one process, however many tasks its steps will have.
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "8", "SLURM_JOB_ID": "77"}, Rank()),
    ],
)
def test_the_variables_of_whoever_started_the_process_say_which_it_is(environment, expected):
    assert Rank.here(environment) == expected


@pytest.mark.parametrize(("rank", "size"), [("x", "2"), ("", ""), ("2", "2"), ("-1", "2")])
def test_a_rank_that_is_none_of_the_started_is_refused(rank, size):
    with pytest.raises(InputError, match=f"RANK is {rank!r} and WORLD_SIZE is {size!r}"):
        Rank.here({"RANK": rank, "WORLD_SIZE": size})


def test_a_users_code_sees_no_launch_and_what_it_sets_is_set_back(monkeypatch):
    named = {**TORCHRUN, **STEP, "SLURM_NTASKS": "8", "GROUP_RANK": "0", "SOURCETRACE_RANK": "3"}
    for name, value in named.items():
        monkeypatch.setenv(name, value)
    before = dict(os.environ)
    with as_alone():
        assert before.keys() - os.environ.keys() == named.keys() - {"SLURM_JOB_ID"}
        os.environ["RANK"] = "7"
    assert dict(os.environ) == before
