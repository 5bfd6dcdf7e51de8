"""A real MLflow server sends, the receiver takes, an audit runs, and its outcome is sent on."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from cryptography.fernet import Fernet
from mlflow.tracking import MlflowClient

from sourcetrace.integrations.webhooks.events import RequestedAudit
from sourcetrace.integrations.webhooks.queue import AuditQueue
from sourcetrace.integrations.webhooks.signature import verify
from tests.commands.test_webhooks import free_port, until_healthy
from tests.integrations.webhooks.messages import SECRET
from tests.integrations.webhooks.test_server import served
from tests.test_commands import kedro, make_project

# MLflow's own use of SQLAlchemy and of sockets.
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::DeprecationWarning")]


TAGS_AND_ALIASES = ["model_version_tag.set", "model_version_alias.created"]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """Address of an MLflow server that may send webhooks to this machine."""
    folder = tmp_path_factory.mktemp("server")
    port = free_port()
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1"),
                *("--port", str(port), "--workers", "1"),
                *("--backend-store-uri", f"sqlite:///{folder / 'mlflow.db'}"),
                *("--artifacts-destination", str(folder / "artifacts")),
            ],
            cwd=folder,
            env={
                **os.environ,
                "DO_NOT_TRACK": "true",
                "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
                "MLFLOW_WEBHOOK_SECRET_ENCRYPTION_KEY": Fernet.generate_key().decode(),
                "MLFLOW_WEBHOOK_ALLOWED_SCHEMES": "http",
                "MLFLOW_WEBHOOK_ALLOW_PRIVATE_IPS": "true",
                # Webhooks that were made a moment ago count.
                "MLFLOW_WEBHOOK_CACHE_TTL": "0",
            },
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            until_healthy_server(port, process, folder / "log")
            yield f"http://127.0.0.1:{port}"
        finally:
            os.killpg(process.pid, signal.SIGTERM)
            process.wait(timeout=60)


def until_healthy_server(port, process, log):
    deadline = time.monotonic() + 180
    while True:
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5):
                return
        except OSError:
            time.sleep(0.2)


def until(condition, *, seconds=60):
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.1)
    return found


def test_a_version_that_somebody_registers_waits_to_be_audited(server, tmp_path):
    client = MlflowClient(server, server)
    client.create_registered_model("churn")
    client.create_registered_model("fraud")
    queue = AuditQueue(tmp_path / "queue.sqlite", remember_seconds=600)
    with served(queue) as port:
        webhook = client.create_webhook(
            name="audits",
            url=f"http://127.0.0.1:{port}/mlflow",
            events=[
                "model_version.created",
                "model_version_tag.set",
                "model_version_alias.created",
            ],
            secret="a secret of the tests",
        )
        client.create_model_version("churn", "s3://somewhere/1")
        assert until(queue.take) == RequestedAudit("churn", "1")

        # What an audit writes, and a model that is none of ours, ask for nothing.
        client.set_model_version_tag("churn", "1", "audit.status", "pass")
        client.set_registered_model_alias("churn", "audited", "1")
        client.create_model_version("fraud", "s3://somewhere/1")
        client.set_registered_model_alias("churn", "candidate", "1")
        assert until(queue.take) == RequestedAudit("churn", "1")
        client.set_model_version_tag("churn", "1", "audit.request", "please")
        assert until(queue.take) == RequestedAudit("churn", "1")
        assert queue.counts()["waiting"] == 0

        # The button with which one tries a webhook: signed, of a model that is not audited here.
        tried = client.test_webhook(webhook.webhook_id)
        assert tried.response_status == 422
        client.update_webhook(webhook.webhook_id, secret="not the secret")
        tried = client.test_webhook(webhook.webhook_id)
        assert tried.response_status == 401
        client.delete_webhook(webhook.webhook_id)


class Listener(ThreadingHTTPServer):
    """Somebody who wants to hear of outcomes; keeps what verifies."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), ListenerHandler)
        self.heard = []


class ListenerHandler(BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        verify(self.headers, body, secret=SECRET, now=time.time(), tolerance_seconds=60)
        self.server.heard.append(json.loads(body)["data"])
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_):
        pass


def test_a_new_version_of_the_demo_is_audited_and_its_outcome_told(server, tmp_path):
    project = make_project(tmp_path / "a project")
    (project / "conf/mine").mkdir()
    (project / "conf/mine/mlflow.yml").write_text(f"server: {{mlflow_tracking_uri: {server}}}")
    short = "demo.epochs=2,demo.checkpoints=2"
    run = kedro(project, "run", "--pipelines", "demo_training", "--env", "mine", "--params", short)
    assert run.returncode == 0, run.stderr[-3000:]
    client = MlflowClient(server, server)
    first = client.get_model_version("sourcetrace-digits", "1")

    port, listener = free_port(), Listener()
    threading.Thread(target=listener.serve_forever).start()
    for name, address, events in (
        ("start-audits", f"http://127.0.0.1:{port}/mlflow", ["model_version.created"]),
        ("hear-outcomes", f"http://127.0.0.1:{listener.server_port}", TAGS_AND_ALIASES),
    ):
        client.create_webhook(name=name, url=address, events=events, secret=SECRET)
    said = (tmp_path / "said").open("w+")
    receiver = subprocess.Popen(
        [
            *(sys.executable, "-m", "sourcetrace", "webhooks", "--port", str(port)),
            *("--model", "sourcetrace-digits=mine"),
        ],
        cwd=project,
        env={**os.environ, "DO_NOT_TRACK": "true", "SOURCETRACE_WEBHOOK_SECRET": SECRET},
        stdout=said,
        stderr=subprocess.STDOUT,
    )
    try:
        until_healthy(port, receiver)
        model_id = first.source.removeprefix("models:/")
        client.create_model_version(
            first.name, first.source, run_id=first.run_id, model_id=model_id
        )
        status = {"name": first.name, "version": "2", "key": "audit.status"}
        until(lambda: {**status, "value": "warn"} in listener.heard, seconds=300)
        until(lambda: until_healthy(port, receiver)["running"] == 0)
    finally:
        receiver.send_signal(signal.SIGTERM)
        receiver.wait(timeout=60)
        listener.shutdown()
        listener.server_close()
    said.close()
    text = (tmp_path / "said").read_text()
    assert "Audit of sourcetrace-digits version 2: exit code 0." in text
    assert client.get_model_version(first.name, "2").tags["audit.status"] == "warn"
    assert "audit.status" not in client.get_model_version(first.name, "1").tags
    assert SECRET not in text
