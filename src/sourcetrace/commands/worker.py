"""`sourcetrace worker`: one of several processes of an audit, which started it; for nobody else."""

import json
import signal
import sys

import click
import yaml


@click.command(hidden=True)
def worker() -> None:
    """Do what standard input says, to its end."""
    # A terminal's Ctrl-C is for the parent, with which standard input ends.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    configuration = yaml.safe_load(json.loads(sys.stdin.readline()))
    sys.path += [path for path in configuration["path"] if path not in sys.path]
    # Here: what it imports may be found by these paths alone.
    from sourcetrace.pipelines.worker import serve

    serve(configuration, map(json.loads, sys.stdin))
