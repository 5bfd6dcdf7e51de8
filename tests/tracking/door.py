"""A real MLflow server, and a door before it that a test can shut at any request."""

import http.client
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any


@contextmanager
def mlflow_server(folder: Path) -> Iterator[int]:
    """Run a server on SQLite in a folder, and give its port."""
    port = free_port()
    environment = {
        **os.environ,
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "DO_NOT_TRACK": "true",
    }
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_ID", "MLFLOW_RUN_ID"):
        environment.pop(name, None)
    command = [
        *(sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)),
        *("--workers", "1", "--backend-store-uri", f"sqlite:///{folder / 'mlflow.db'}"),
        *("--artifacts-destination", str(folder / "artifacts")),
    ]
    with closing(sqlite3.connect(folder / "mlflow.db")) as database:
        # It waits for the disk once a commit, and not three times.
        database.execute("PRAGMA journal_mode = WAL")
    with (folder / "server.log").open("wb") as log:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env=environment,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        _wait_for(process, port, folder / "server.log")
        yield port
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
    return port


def _wait_for(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    for _ in range(1200):
        if process.poll() is not None:
            break
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        try:
            connection.request("GET", "/health")
            if connection.getresponse().status == http.HTTPStatus.OK:
                return
        except OSError:
            pass
        finally:
            connection.close()
        time.sleep(0.1)
    raise RuntimeError(f"The server does not start: {log.read_text()[-2000:]}")


class Door:
    """Passes requests on to a server, while it is open.

    Attributes:
        address: Of the door.
        requests: Method and path of all that came, answered or not.
        shuts: Called with each request; once it says yes, nobody is answered any more.
        status: Answered to everybody instead, where it is set.
        swallow: Pass on the request at which the door shuts, and withhold the answer.
    """

    def __init__(self, port: int) -> None:
        self.requests: list[tuple[str, str]] = []
        self.open_up()
        door = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                door._answer(self, port)

            do_POST = do_PUT = do_PATCH = do_DELETE = do_GET  # noqa: N815

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.address = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def open_up(self) -> None:
        """Answer everybody."""
        self.shut, self.status, self.swallow = False, None, False
        self.shuts: Callable[[str, str], bool] = lambda *_: False

    def shut_at(self, number: int, *, swallow: bool = False) -> None:
        """Shut at the request with this number, from 0 on."""
        self.open_up()
        self.requests.clear()
        self.swallow = swallow
        self.shuts = lambda *_: len(self.requests) > number

    def close(self) -> None:
        """End it."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _answer(self, handler: BaseHTTPRequestHandler, port: int) -> None:
        body = handler.rfile.read(int(handler.headers.get("Content-Length", 0)))
        self.requests.append((handler.command, handler.path))
        was_shut = self.shut
        self.shut = self.shut or self.shuts(handler.command, handler.path)
        if self.shut and (was_shut or not self.swallow):
            handler.close_connection = True
            return
        if self.status is not None:
            self._reply(handler, self.status, b"No.", "text/plain")
            return
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        try:
            headers = {"Content-Type": handler.headers.get("Content-Type", "application/json")}
            connection.request(handler.command, handler.path, body, headers)
            answer = connection.getresponse()
            content = answer.read()
        finally:
            connection.close()
        if self.shut:
            handler.close_connection = True
            return
        kind = answer.headers.get("Content-Type", "application/json")
        self._reply(handler, answer.status, content, kind)

    @staticmethod
    def _reply(handler: BaseHTTPRequestHandler, status: int, content: bytes, kind: str) -> None:
        handler.send_response(status)
        handler.send_header("Content-Type", kind)
        handler.send_header("Content-Length", str(len(content)))
        handler.end_headers()
        handler.wfile.write(content)
