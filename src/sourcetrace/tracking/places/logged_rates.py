"""Learning rates of a training that are a metric of its MLflow run."""

import re
from pathlib import Path

import polars as pl

from sourcetrace.errors import InputError
from sourcetrace.files import replacing
from sourcetrace.tracking.places.server import asking
from sourcetrace.tracking.server.tracked import TRACKED

_ADDRESS = re.compile(r"runs:/+([^/]+)/metrics/(.+)")


def fetch_rates(address: str, target: Path) -> None:
    """Write the history of a metric as a table of step and learning_rate.

    A history that begins with step 0 counts the steps before it; step 1 is the training's first.

    Args:
        address: `runs:/<run>/metrics/<name>`.
        target: The CSV file.

    Raises:
        InputError: If there is no such history, or it leaves steps out.
    """
    found = _ADDRESS.fullmatch(address)
    if found is None:
        raise InputError(
            f"checkpoints.learning_rates: {address} names no metric of a run. Write "
            "runs:/<run>/metrics/<name>."
        )
    with asking(address):
        client = TRACKED.client()
        client.get_run(found[1])  # of a run that is not there, the history is empty
        history = client.get_metric_history(found[1], found[2])
    # Of a step that was logged again, after a crash, the later rate was used.
    rates = {one.step: one.value for one in sorted(history, key=lambda one: one.timestamp)}
    steps = sorted(rates)
    if not steps or steps != list(range(steps[0], steps[0] + len(steps))) or steps[0] not in (0, 1):
        raise InputError(
            f"checkpoints.learning_rates: {address} has rates for {len(steps)} steps"
            + (f" of {steps[0]} to {steps[-1]}" if steps else "")
            + "; expected one for every step from the first. Log the rate at every step, or write "
            "the rates into a CSV file with columns step,learning_rate."
        )
    first = 1 - steps[0]
    # Behind the last that was logged, no rate is known: it does not hold on.
    table = pl.DataFrame(
        {
            "step": [step + first for step in (*steps, steps[-1] + 1)],
            "learning_rate": [*(rates[step] for step in steps), None],
        }
    )
    with replacing(target) as partial:
        table.write_csv(partial)
