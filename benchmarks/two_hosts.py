"""Two hosts, each a network namespace, that torchrun has audit together; then the link is cut.

    python -m benchmarks.two_hosts PROJECT [--nodes 1:2] [--cut 30 | --cut forever]

As root, on Linux. The hosts share the project's folder, and nothing else but a link; what is cut is
torchrun's rendezvous. Prints what became of both, and the digest of the scores.
"""

import argparse
import hashlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_STORE = "10.77.0.1:29777"
_PATIENCE = 400
"""Seconds: torchrun itself waits 300 for the other host's end."""
_PIPELINES = "checkpoint_ingest,gradient_extraction,ekfac_fitting,source_scoring"


def main() -> None:
    """Run one case and say what became of it."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.two_hosts")
    parser.add_argument("project", type=Path)
    parser.add_argument("--nodes", default="1:2", help="torchrun's --nnodes")
    parser.add_argument("--cut", default="", help="seconds, or forever; without it never")
    given = parser.parse_args()
    start = time.monotonic()
    with _linked_hosts() as hosts:
        agents = [_agent(host, given.project, given.nodes) for host in hosts]
        if given.cut:
            _wait_for_both(given.project, agents)
            _link(hosts[0], "down")
            print(f"{time.monotonic() - start:4.0f} s: cut", flush=True)
            if given.cut != "forever":
                time.sleep(float(given.cut))
                _link(hosts[0], "up")
                print(f"{time.monotonic() - start:4.0f} s: mended", flush=True)
        for host, agent in zip(hosts, agents, strict=True):
            ended = _ended(agent)
            print(f"{time.monotonic() - start:4.0f} s: {host} {ended}", flush=True)
    print("scores", _digest(given.project))


@contextmanager
def _linked_hosts() -> Iterator[list[str]]:
    hosts = [f"host{number}-{os.getpid()}" for number in (0, 1)]
    try:
        for host in hosts:
            _do(f"ip netns add {host}")
        _do(f"ip link add wire0 netns {hosts[0]} type veth peer name wire1 netns {hosts[1]}")
        for number, host in enumerate(hosts):
            _do(f"ip -n {host} addr add 10.77.0.{number + 1}/24 dev wire{number}")
            _do(f"ip -n {host} link set wire{number} up")
            _do(f"ip -n {host} link set lo up")
        yield hosts
    finally:
        for host in hosts:
            _do(f"ip netns del {host}")


def _link(host: str, state: str) -> None:
    _do(f"ip -n {host} link set wire0 {state}")


def _do(command: str) -> None:
    subprocess.run(command.split(), check=True)


def _agent(host: str, project: Path, nodes: str) -> "subprocess.Popen[bytes]":
    number = 0 if host.startswith("host0") else 1
    command = f"ip netns exec {host} {sys.executable} -m torch.distributed.run --nnodes {nodes}"
    command += f" --nproc-per-node 1 --rdzv-backend c10d --rdzv-endpoint {_STORE} --rdzv-id night"
    command += f" --rdzv-conf is_host={int(not number)}"
    command += f" --local-addr 10.77.0.{number + 1} --max-restarts 3"
    command += f" -m kedro run --pipelines {_PIPELINES}"
    with (project / f"host{number}.log").open("wb") as said:
        return subprocess.Popen(command.split(), cwd=project, stdout=said, stderr=said)


def _ended(agent: "subprocess.Popen[bytes]") -> str:
    try:
        return f"ended with {agent.wait(_PATIENCE)}"
    except subprocess.TimeoutExpired:
        agent.kill()
        return f"did not end for {_PATIENCE} s, and was killed"


def _wait_for_both(project: Path, agents: list["subprocess.Popen[bytes]"]) -> None:
    logs = project / "data/04_feature/gradients/units/log"
    while len([one for one in logs.glob("*") if one.stat().st_size]) < len(agents):
        if any(one.poll() is not None for one in agents):
            sys.exit("A host ended before both were at work: see host0.log and host1.log.")
        time.sleep(0.1)


def _digest(project: Path) -> str:
    parts = sorted((project / "data/07_model_output/attribution_scores").glob("*.parquet"))
    return hashlib.sha256(b"".join(one.read_bytes() for one in parts)).hexdigest()[:16]


if __name__ == "__main__":
    main()
