"""What is free, by the machine, its containers and the process's own limit."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from sourcetrace.core.machine import memory
from tests.tiny import CPU


def test_a_container_s_limit_counts(tmp_path):
    files = {
        "memory.max": "1000",
        "memory.current": "700",
        "memory.stat": "anon 1\ninactive_file 50",
    }
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    assert memory._free_in_container(tmp_path) == 350
    (tmp_path / "memory.max").write_text("max")
    assert memory._free_in_container(tmp_path) is None
    assert memory._free_in_container(Path("no such folder")) is None


def test_the_machine_says_what_is_free_and_what_was_taken():
    assert memory.free_memory(CPU) > 2**20
    before = memory.peak_memory(CPU)
    held = torch.ones(2**23, dtype=torch.float64)  # 64 MiB, touched
    assert memory.peak_memory(CPU) >= before > 2**20
    assert held.sum() == 2**23


def test_a_container_of_version_1_counts(tmp_path):
    files = {
        "memory.limit_in_bytes": "1000",
        "memory.usage_in_bytes": "700",
        "memory.stat": "inactive_file 9\ntotal_inactive_file 50",
    }
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    assert memory._free_in_container(tmp_path) == 350


def test_the_containers_around_the_process_s_count_too(tmp_path):
    own = tmp_path / "cgroup"
    own.write_text("5:devices:/else\n4:cpu,memory:/outer/inner\n0::/user/me\n")
    root = tmp_path / "fs"
    found = {str(one.relative_to(root)) for one in memory._containers(root, own)}
    inside = {"memory/outer/inner", "memory/outer", "user/me", "user"}
    assert found == {".", "memory", *inside}
    assert list(memory._containers(root, tmp_path / "none")) == [root, root / "memory"]


@pytest.mark.skipif(sys.platform != "linux", reason="the limit is Linux's")
def test_the_process_s_own_limit_counts():
    code = (
        "import resource, torch; from sourcetrace.core.machine.memory import free_memory;"
        "resource.setrlimit(resource.RLIMIT_AS, (8 * 2**30, 8 * 2**30));"
        "print(free_memory(torch.device('cpu')))"
    )
    free = int(subprocess.check_output([sys.executable, "-c", code], text=True))
    assert 2**20 < free < 8 * 2**30
