"""What starts several processes gives each of them its rank, and the same command."""

import os
import stat
import subprocess

import pytest
import yaml

from sourcetrace.work.ranks import Rank
from tests import REPOSITORY

EXAMPLES = REPOSITORY / "examples"


def test_the_pods_of_the_job_are_the_ranks_of_one_launch():
    job = yaml.safe_load((EXAMPLES / "kubernetes/audit.yaml").read_text())["spec"]
    assert job["completions"] == job["parallelism"]
    (container,) = job["template"]["spec"]["containers"]
    of_pod = {"job-completion-index": "3", "controller-uid": "5f0c"}
    environment = {}
    for one in container["env"]:
        path = one.get("valueFrom", {}).get("fieldRef", {}).get("fieldPath", "")
        name = path.partition("batch.kubernetes.io/")[2].rstrip("']")
        environment[one["name"]] = of_pod[name] if path else one["value"]
    assert Rank.here(environment) == Rank(3, job["completions"], 0, "5f0c:")


@pytest.fixture
def tasks(tmp_path):
    """Return what each task of the Slurm script would be run with, by a stand-in for srun."""
    said = tmp_path / "said"
    (tmp_path / "srun").write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" >{said}\n')
    (tmp_path / "srun").chmod(stat.S_IRWXU)
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    subprocess.run(
        ["bash", EXAMPLES / "slurm/audit.sbatch"],
        env={"PATH": path, "SLURM_CPUS_PER_TASK": "6", "AUDIT_ENV": "weekly"},
        check=True,
    )
    return said.read_text().split()


def test_the_tasks_of_the_slurm_script_run_the_audit_with_the_threads_of_their_cores(tasks):
    assert tasks == [
        "--kill-on-bad-exit=0",
        *(".venv/bin/python", "-m", "sourcetrace", "audit"),
        *("--env", "weekly", "--params", "launch.threads=6"),
    ]
