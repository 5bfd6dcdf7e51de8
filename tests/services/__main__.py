"""Run PostgreSQL and the MLflow server until Ctrl-C, to look at what audits leave there."""

import argparse
import signal
import sys
import tempfile
import threading
from pathlib import Path

from tests.services.postgres import Postgres
from tests.services.tracking_server import TrackingServer


def main() -> None:
    """Start both servers, say where they are, and end them on Ctrl-C or SIGTERM."""
    parser = argparse.ArgumentParser(prog="python -m tests.services", description=__doc__)
    parser.add_argument(
        "--authenticated", action="store_true", help="ask for a name and a password"
    )
    authenticated = parser.parse_args().authenticated
    stop = threading.Event()
    with (
        tempfile.TemporaryDirectory(prefix="sourcetrace-mlflow-") as folder,
        Postgres() as postgres,
        TrackingServer(
            Path(folder), database=postgres.create_database("mlflow"), authenticated=authenticated
        ) as server,
    ):
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: stop.set())
        print(f"PostgreSQL 127.0.0.1:{postgres.port}")
        print(f"MLflow     {server.url}")
        for name, value in server.credentials.items():
            print(f"  export {name}={value}")
        print("In a project's conf/local/mlflow.yml:")
        print(f"  server: {{mlflow_tracking_uri: {server.url}}}")
        print("Ctrl-C ends both, and everything that was written to them is gone.", flush=True)
        stop.wait()


if __name__ == "__main__":
    sys.exit(main())
