"""What the report takes after an audit of many examples, node by node.

    python -m benchmarks.report_scale --examples 1000000 --queries 100 [--project DIR]
    python -m benchmarks.report_scale --examples 200000 --stored-scores strongest

The outputs of an audit are made up and written by the catalog; then `kedro run --pipelines
cleaning_report,gate` runs in a process of its own: list, groups, issues, comparison, gate,
documents and page. A node's seconds are those of loading, checking, running and writing.
"""

import argparse
import os
import re
import sys
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from kedro.framework.project import configure_project
from kedro.framework.session import KedroSession

REPOSITORY = Path(__file__).resolve().parents[1]
if str(REPOSITORY) not in sys.path:
    sys.path.insert(0, str(REPOSITORY))

# Not the machine's description: it imports torch, which a report does without.
from benchmarks.measurement import Measurement  # noqa: E402, works as a file, too
from benchmarks.nodes import run_watched  # noqa: E402
from benchmarks.processes import make_project, measure_in_process  # noqa: E402
from benchmarks.report_outputs import outputs_of  # noqa: E402

from sourcetrace.datasets.audited import AuditedDataset  # noqa: E402


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.report_scale", description=__doc__)
    parser.add_argument("--examples", type=int, default=100_000)
    parser.add_argument("--queries", type=int, default=100)
    parser.add_argument("--stored-scores", choices=("float32", "strongest"), default="float32")
    parser.add_argument("--project", type=Path, help="folder to keep; what it has is not made anew")
    parser.add_argument("--inside", choices=("make", "run"), help=argparse.SUPPRESS)
    parser.add_argument("--measurement", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.inside:
        os.chdir(given.project)
        made = partial(_make, given.examples, given.queries, given.stored_scores)
        inside = _run() if given.inside == "run" else made()
        inside.write(given.measurement)
        return
    with tempfile.TemporaryDirectory() as name:
        project = (given.project or Path(name) / "project").resolve()
        sizes = ["--examples", given.examples, "--queries", given.queries, "--project", project]
        sizes += ["--stored-scores", given.stored_scores]
        if not project.exists():
            make_project(project, server=None)
            _in_process("make", sizes)
        print(table(_in_process("run", sizes)))


def table(found: Measurement) -> str:
    """Return seconds and memory by node, and what the page is like, in Markdown."""
    lines = ["| | wall s | CPU s | peak memory, MB |", "| --- | --- | --- | --- |"]
    for name, cost in {**found.costs, "together": found.total(found.costs)}.items():
        lines.append(f"| {name} | {cost.wall:.1f} | {cost.cpu:.1f} | {cost.peak_bytes / 1e6:.0f} |")
    return "\n".join([*lines, "", *(f"{name}: {one:,.0f}" for name, one in found.facts.items())])


def _in_process(what: str, sizes: Sequence[object]) -> Measurement:
    options = ["--inside", what, *sizes]
    return measure_in_process(sys.executable, "benchmarks.report_scale", options, threads=1)


def _make(examples: int, queries: int, stored_scores: str) -> Measurement:
    configure_project("sourcetrace")
    with KedroSession.create(project_path=Path.cwd()) as session:
        catalog, filled = session.load_context().catalog, set()
        for name, data in outputs_of(examples, queries, stored_scores=stored_scores):
            if isinstance(catalog[name], AuditedDataset):
                # Of the class, so that no run of MLflow is begun for an artifact.
                AuditedDataset.save(catalog[name], data)
                filled.add(name)
            else:
                catalog.save(name, data)
        for name in filled:
            catalog[name].confirm()
    return Measurement({}, {})


def _run() -> Measurement:
    found = run_watched(["--pipelines", "cleaning_report,gate"])
    page = Path("data/08_reporting/cleaning_report.html").read_text(encoding="utf-8")
    read = re.sub(r"<(script|style)\b.*?</\1>|<[^>]*>", " ", page, flags=re.DOTALL)
    scores = Path("data/07_model_output/attribution_scores").glob("*.parquet")
    facts = {
        "bytes of the page": len(page.encode()),
        "words": len(read.split()),
        "bytes of the scores": sum(file.stat().st_size for file in scores),
    }
    return Measurement(found.costs, facts)


if __name__ == "__main__":
    main()
