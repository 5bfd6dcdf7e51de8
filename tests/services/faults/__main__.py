"""Run every fault against real servers and print how audits came through, as Markdown."""

import argparse
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.services.faults import scenarios
from tests.services.faults.scenarios import Bench, Outcome
from tests.services.postgres import Postgres
from tests.services.tracking_server import TrackingServer

STAGES = {
    "checkpoint_ingest": "before ingest_checkpoints",
    "gradient_extraction": "before extract_gradients",
    "ekfac_fitting": "before fit_curvature",
    "source_scoring": "before draw_suspects",
    "cleaning_report": "before render_page",
    "gate": "before enforce_gate",
}
"""A moment in every stage, or before its only node."""

WRITES = [f"write {number}" for number in (0, 2, 6, 12, 20)]

Call = Callable[[], Outcome]


def plan(bench: Bench, *, kills: int, seed: int) -> Iterator[tuple[str, Call]]:
    """Yield each fault's name and what does it, at one moment."""

    def each(
        fault: Callable[..., Outcome], moments: list[str], **options: bool
    ) -> Iterator[tuple[str, Call]]:
        for moment in moments:
            yield fault.__name__, lambda moment=moment: fault(bench, moment, **options)

    yield from each(scenarios.server_dies, [*STAGES.values(), *WRITES])
    yield from each(scenarios.server_restarts, [STAGES["ekfac_fitting"], WRITES[2]])
    yield from each(scenarios.database_restarts, [STAGES["gradient_extraction"], WRITES[2]])
    yield from each(scenarios.database_dies, [STAGES["cleaning_report"], WRITES[3]])
    yield from each(scenarios.disk_fills, [*list(STAGES.values())[4:], "before summarise_audit"])
    for seconds in scenarios.kill_moments(bench, count=kills, seed=seed):
        yield "killed_after", lambda seconds=seconds: scenarios.killed_after(bench, seconds)
    yield from each(scenarios.killed_at, [*WRITES, "end of run"])
    yield "clock_goes_back", lambda: scenarios.clock_goes_back(bench, 400.0)
    for shared in (True, False):
        yield from each(scenarios.two_audits_race, WRITES[1:], shared_history=shared)


def main() -> int:
    """Run them one after the other; 1 where something did not hold."""
    parser = argparse.ArgumentParser(prog="python -m tests.services.faults", description=__doc__)
    parser.add_argument("--only", help="faults whose function's name begins so")
    parser.add_argument("--kills", type=int, default=10, help="random moments; default 10")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    outcomes = []
    with (
        tempfile.TemporaryDirectory(prefix="sourcetrace-faults-") as folder,
        Postgres() as postgres,
        TrackingServer(
            Path(folder) / "mlflow", database=postgres.create_database("mlflow")
        ) as server,
    ):
        bench = Bench(Path(folder), postgres=postgres, server=server)
        for name, fault in plan(bench, kills=arguments.kills, seed=arguments.seed):
            if arguments.only and not name.startswith(arguments.only):
                continue
            outcome = fault()
            outcomes.append(outcome)
            problems = outcome.findings.all()
            print(f"{outcome.fault}, {outcome.moment}: {'; '.join(problems) or 'holds'}",
                  file=sys.stderr, flush=True)  # fmt: skip
    print(table(outcomes))
    return int(any(outcome.findings.all() for outcome in outcomes))


def table(outcomes: list[Outcome]) -> str:
    """Return a row of counts for each fault."""
    lines = [
        "| fault | moments | audits that ended | broken off | history unsound | lost | double | "
        "half-tagged |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for fault in dict.fromkeys(outcome.fault for outcome in outcomes):
        own = [outcome for outcome in outcomes if outcome.fault == fault]
        counts = [
            sum(bool(getattr(one.findings, kind)) for one in own)
            for kind in ("history", "lost", "double", "half_tagged")
        ]
        cells = [len(own), sum(one.ended for one in own), sum(one.killed for one in own), *counts]
        lines.append(f"| {fault} | {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
