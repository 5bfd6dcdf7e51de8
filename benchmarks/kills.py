"""Random SIGKILLs of audits, each followed by a second run: what is lost, doubled or done again.

    python -m benchmarks.kills --kills 100

`kedro run --pipelines audit` of an MLP on random inputs, in a project of its own every time. A
stage is drawn, then how many of its units may finish, and a moment within the next; then one of
the run's processes, which is killed. Where others of the run go on, they may. Then the same
command runs again, and must end, with

- every file that two undisturbed runs have in common, byte by byte (`--files` prints them),
- every unit of an undisturbed run done, and none twice.

*Done again* are the units that were begun and not finished when all processes were gone, and what a
stage makes before its first unit, if the stage had begun: their seconds in an undisturbed run, in
shares of those of the stage.

Libraries are imported once, and runs are forked from there; `launch.processes` beyond the first
start as always.
"""

import argparse
import json
import multiprocessing
import os
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from statistics import median
from typing import Any
from urllib.parse import quote

import psutil

REPOSITORY = Path(__file__).resolve().parents[1]
if str(REPOSITORY) not in sys.path:
    sys.path.insert(0, str(REPOSITORY))

from benchmarks.audit_growth import write_project  # noqa: E402, works as a file, too
from benchmarks.processes import THREAD_VARIABLES  # noqa: E402

from sourcetrace.files import digest_of, file_digest  # noqa: E402

_GRID = Path("data/04_feature/gradients/grid.json")
_LEDGER = _GRID.with_name("units")
_COMPARED = ("02_intermediate", "03_primary", "04_feature", "06_models", "07_model_output")
_IMPORTED = (
    "kedro.framework.session",
    "kedro_mlflow.framework.hooks",
    "mlflow.pytorch",
    "mlflow.store.tracking.sqlalchemy_store",
    "pandera.polars",
    "scipy.stats",
    "sklearn.isotonic",
    "sourcetrace.__main__",
    "sourcetrace.pipelines.checkpoint_ingest.nodes",
    "sourcetrace.pipelines.source_scoring.nodes",
    "torch.fx.experimental.symbolic_shapes",
)
"""Before runs are forked."""

_COMMAND = "command.json"
_LOOK_SECONDS = 0.005
_PATIENCE_SECONDS = 60
"""For other processes of a run whose first was killed."""

_FORKS = multiprocessing.get_context("forkserver")


@dataclass(frozen=True)
class Reference:
    """An undisturbed run.

    Attributes:
        files: Those that two of them have in common, with their digests.
        seconds: Stage -> folder of a unit -> what it took, in the order in which they were done.
    """

    files: Mapping[str, str]
    seconds: Mapping[str, Mapping[str, float]]

    def share(self, stage: str, begun: Sequence[str], done: int) -> float:
        """Return which share of a stage's seconds is done again after a kill.

        Args:
            stage: In which the run was killed.
            begun: Its units that were begun and not finished.
            done: How many were finished.
        """
        seconds = self.seconds[stage]
        # What a process makes before its first unit, and again in a second run.
        before = max(0.0, next(iter(seconds.values())) - median(seconds.values()))
        again = sum(seconds[one] for one in begun)
        if 0 < done < len(seconds):
            again += before
        return again / sum(seconds.values())


@dataclass(frozen=True)
class Kill:
    """What a kill did.

    Attributes:
        stage: Of the work at that moment.
        victim: `first` for the process that runs Kedro, else `other`.
        went_on: Whether the run ended by itself all the same.
        code: How the second run ended.
        different: Files that are not those of an undisturbed run.
        lost: Units that were never done.
        doubled: Units that were done twice.
        again: Share of the stage's seconds that was done again.
    """

    stage: str
    victim: str
    went_on: bool
    code: int | None
    different: Sequence[str]
    lost: int
    doubled: int
    again: float

    @property
    def is_clean(self) -> bool:
        """Whether nothing shows that there was a kill."""
        return self.code == 0 and not (self.different or self.lost or self.doubled)


def main(arguments: Sequence[str] | None = None) -> None:
    """Kill and count."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--examples", type=int, default=4000)
    parser.add_argument("--queries", type=int, default=20)
    parser.add_argument("--checkpoints", type=int, default=2)
    parser.add_argument("--widths", type=int, nargs="+", default=[64, 64, 32, 10])
    parser.add_argument("--unit-seconds", type=float, default=1e-6)
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--to", default="", metavar="NODE", help="the last node, as `--to-nodes`")
    parser.add_argument("--files", action="store_true", help="print the files that are compared")
    given = parser.parse_args(arguments)
    os.environ |= dict.fromkeys(THREAD_VARIABLES, "1")
    _FORKS.set_forkserver_preload(list(_IMPORTED))
    os.environ |= {"DO_NOT_TRACK": "true", "PYTHONPATH": f"{REPOSITORY / 'src'}:{REPOSITORY}"}
    drawn = random.Random(given.seed)  # noqa: S311, no secret
    with tempfile.TemporaryDirectory() as name:
        template = Path(name) / "template"
        write_project(
            template,
            given.widths,
            examples=given.examples,
            queries=given.queries,
            checkpoints=given.checkpoints,
            parameters={
                "segments": {"count": 1},
                "gradients": {"batch_size": given.batch_size},
                "launch": {"processes": given.processes, "unit_seconds": given.unit_seconds},
            },
        )
        command = ["--pipelines", "audit", *(["--to-nodes", given.to] if given.to else [])]
        (template / _COMMAND).write_text(json.dumps(command))
        reference = _undisturbed(template)
        for stage, units in reference.seconds.items():
            print(f"{stage}: {len(units)} units, {sum(units.values()):.1f} s", flush=True)
        if given.files:
            print("\n".join(reference.files))
        kills = []
        for number in range(given.kills):
            project = Path(name) / f"project{number}"
            kills.append(_killed(template, project, reference, drawn))
            print(f"{number + 1}: {kills[-1]}", flush=True)
            shutil.rmtree(project)
    print(_summary(kills))
    sys.exit(not all(one.is_clean for one in kills))


def _undisturbed(template: Path) -> Reference:
    """Run twice what nobody kills; others have the first one's grid and MLflow's database."""
    found = []
    for place in range(2):
        project = template.with_name(f"undisturbed{place}")
        shutil.copytree(template, project)
        _ended(_start(project), project)
        found.append(_files(project))
        if not place:
            # The grid is chosen by what an example takes at that moment, once.
            for kept in (*project.glob("*.db"), project / _GRID):
                kept_there = template / kept.relative_to(project)
                kept_there.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(kept, kept_there)
    seconds: dict[str, dict[str, float]] = {}
    for stage, unit, taken in _done(project):
        seconds.setdefault(stage, {})[unit] = taken
    same = {name: one for name, one in found[0].items() if found[1].get(name) == one}
    if different := set(found[0]) ^ set(same):
        print("Not compared, for undisturbed runs differ:", *sorted(different))
    return Reference(same, seconds)


def _killed(template: Path, project: Path, reference: Reference, drawn: random.Random) -> Kill:
    """Kill a run of a project, run it again, and compare."""
    shutil.copytree(template, project)
    stage = drawn.choice(list(reference.seconds))
    seconds = list(reference.seconds[stage].values())
    finished, moment = drawn.randrange(len(seconds)), drawn.random()
    running = _start(project)
    while running.is_alive() and sum(one[0] == stage for one in _done(project)) < finished:
        time.sleep(_LOOK_SECONDS)
    while running.is_alive() and not (project / _LEDGER / stage).exists():
        time.sleep(_LOOK_SECONDS)
    time.sleep(moment * seconds[finished])
    victim = _kill_one(running, drawn)
    running.join()
    before = _done(project)
    begun = [
        one
        for one in reference.seconds[stage]
        for _ in (project / _LEDGER / stage).glob(f"{one}.*.partial")
    ]
    again = _start(project)
    again.join()
    after = {*before, *_done(project)}
    files = _files(project)
    count = Counter((stage, unit) for stage, unit, _ in after)
    return Kill(
        stage,
        victim,
        running.exitcode == 0,
        again.exitcode,
        [name for name, digest in reference.files.items() if files.get(name) != digest],
        sum((name, one) not in count for name, own in reference.seconds.items() for one in own),
        sum(one - 1 for one in count.values()),
        reference.share(stage, begun, sum(one[0] == stage for one in before)),
    )


def _kill_one(running: Any, drawn: random.Random) -> str:
    """Kill one of a run's processes, and wait for the others to end or to go on."""
    first = psutil.Process(running.pid)
    others = [one for one in first.children(recursive=True) if _is_worker(one)]
    victim = drawn.choice([first, *others])
    victim.kill()
    if victim is first:
        psutil.wait_procs(others, timeout=_PATIENCE_SECONDS)
    return "first" if victim is first else "other"


def _is_worker(process: psutil.Process) -> bool:
    with suppress(psutil.NoSuchProcess):  # some live a moment
        return "worker" in process.cmdline()
    return False


def _start(project: Path) -> Any:
    command = json.loads((project / _COMMAND).read_text())
    process = _FORKS.Process(target=_run, args=(str(project), command))
    process.start()
    return process


def _run(project: str, arguments: Sequence[str]) -> None:
    os.chdir(project)
    said = os.open("said", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(said, 1)
    os.dup2(said, 2)
    run_project = import_module("sourcetrace.__main__").main
    run_project(arguments)


def _ended(running: Any, project: Path) -> None:
    running.join()
    if running.exitcode != 0:
        raise RuntimeError((project / "said").read_text()[-3000:])


def _done(project: Path) -> list[tuple[str, str, float]]:
    """Return stage, folder's name and seconds of every unit that a log says was done."""
    found = []
    for log in (project / _LEDGER / "log").glob("*.jsonl"):
        for content in log.read_bytes().splitlines(keepends=True):
            if content.endswith(b"\n"):
                line = json.loads(content)
                if line["files"] is not None:
                    seconds = line["facts"]["seconds"]
                    folder = f"{quote(line['name'], safe='')}.{digest_of(line['made_of'])}"
                    found.append((line["stage"], folder, seconds))
    return found


def _files(project: Path) -> dict[str, str]:
    """Return the digests of what the stages wrote; of MLflow, pages and logs none."""
    data = project / "data"
    return {
        str(file.relative_to(data)): file_digest(file)
        for folder in _COMPARED
        for file in sorted((data / folder).rglob("*"))
        if file.is_file() and file.suffix != ".jsonl"
    }


def _summary(kills: Sequence[Kill]) -> str:
    """Return the counts, in Markdown."""
    lines = [
        "| killed in | kills | of them the first process | went on by themselves | second runs end "
        "| equal | units lost | units done twice | done again, median (most) |",
        "|" + " --- |" * 9,
    ]
    stages = sorted({one.stage for one in kills})
    for name in (*stages, "all"):
        own = [one for one in kills if name in (one.stage, "all")]
        again = [one.again for one in own]
        cells = [
            len(own),
            sum(one.victim == "first" for one in own),
            sum(one.went_on for one in own),
            sum(one.code == 0 for one in own),
            sum(not one.different for one in own),
            sum(one.lost for one in own),
            sum(one.doubled for one in own),
            f"{median(again):.1%} ({max(again):.1%})",
        ]
        lines.append(f"| {name} | {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
