"""`sourcetrace worker`: one of several processes of an audit, which started it; for nobody else."""

import json
import os
import signal
import sys

import click
import yaml

from sourcetrace.work.ranks import RANK


@click.command(hidden=True)
def worker() -> None:
    """Do what standard input says, to its end."""
    if RANK not in os.environ:
        raise click.UsageError(
            "A run starts it itself: kedro run --pipelines audit --params launch.processes=2."
        )
    # A terminal's Ctrl-C is for the parent, with which standard input ends.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    configuration = yaml.safe_load(json.loads(sys.stdin.readline()))
    sys.path += [path for path in configuration["path"] if path not in sys.path]
    # Here: what it imports may be found by these paths alone.
    from sourcetrace.pipelines.worker import serve

    serve(configuration, map(json.loads, sys.stdin))
