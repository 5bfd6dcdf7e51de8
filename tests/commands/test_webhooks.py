"""`sourcetrace webhooks`: what it refuses, and a life from start to SIGTERM."""

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time

import pytest
from filelock import FileLock

from sourcetrace.commands.webhooks import _audit_command, webhooks
from sourcetrace.integrations.webhooks.events import RequestedAudit
from sourcetrace.parameters import TrackingParameters
from tests.integrations.webhooks.messages import SECRET, event, headers

VARIABLE = "SOURCETRACE_WEBHOOK_SECRET"


@pytest.fixture
def project(tmp_path, monkeypatch):
    (tmp_path / "conf/mine").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(VARIABLE, SECRET)
    return tmp_path


def refusal(capsys, *arguments):
    with pytest.raises(SystemExit) as ended:
        webhooks(arguments, prog_name="sourcetrace webhooks")
    assert ended.value.code == 2
    return " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "Missing option '--model'"),
        (["--model", "churn=other"], "there is no folder conf/other"),
        (["--model", "a,b"], "begins with a letter"),
        (["--model", "churn", "--tolerance", "0"], "--tolerance"),
        (["--model", "churn", "--port", "70000"], "--port"),
    ],
)
@pytest.mark.usefixtures("project")
def test_wrong_options_are_refused(capsys, arguments, message):
    assert message in refusal(capsys, *arguments)


@pytest.mark.usefixtures("project")
@pytest.mark.parametrize("secret", [None, "", "too short"])
def test_without_a_proper_secret_it_does_not_start_nor_show_it(capsys, monkeypatch, secret):
    monkeypatch.delenv(VARIABLE)
    if secret is not None:
        monkeypatch.setenv(VARIABLE, secret)
    said = refusal(capsys, "--model", "churn=mine")
    assert VARIABLE in said
    assert "too short" not in said


def test_outside_a_project_it_says_where_to_run(project, capsys, monkeypatch):
    monkeypatch.chdir(project / "conf")
    assert "Run this command in the project's folder" in refusal(capsys, "--model", "churn")


def test_a_second_receiver_of_a_queue_is_refused(project, capsys):
    (project / "data").mkdir()
    with FileLock(project / "data/webhooks.sqlite.lock"):
        assert "Another receiver" in refusal(capsys, "--model", "churn=mine")


def test_the_command_names_the_version_and_its_models_environment():
    command = _audit_command(
        RequestedAudit("churn", "3"),
        environments={"churn": "mine", "fraud": None},
        params=["checkpoints.path=models/{version}/checkpoints"],
        pipelines="audit,verification",
    )
    assert command == [
        sys.executable,
        "-m",
        "sourcetrace",
        "audit",
        "--params",
        "tracking.registered_model.name=churn,tracking.registered_model.version=3,"
        "checkpoints.path=models/3/checkpoints",
        "--env",
        "mine",
        "--pipelines",
        "audit,verification",
    ]
    plain = _audit_command(RequestedAudit("fraud", "1"), environments={"fraud": None})
    assert plain[3:] == [
        "audit",
        "--params",
        "tracking.registered_model.name=fraud,tracking.registered_model.version=1",
    ]


@pytest.mark.parametrize(
    "name",
    [
        "a,b",
        "a b",
        "a:b",
        "17",
        "1e5",
        "-2",
        "true",
        "null",
        "No",
        "[a]",
        "${a}",
        "a#b",
        "'a'",
    ],
)
@pytest.mark.usefixtures("project")
def test_names_that_kedro_would_take_apart_are_refused(capsys, name):
    assert "begins with a letter" in refusal(capsys, "--model", name)


@pytest.mark.usefixtures("project")
@pytest.mark.parametrize("name", ["churn", "sourcetrace-digits", "v2", "größe", "a.b"])
def test_other_names_are_taken_and_come_through(capsys, monkeypatch, name):
    from kedro.framework.cli.utils import _split_params

    # The secret is looked at after the name.
    monkeypatch.setenv(VARIABLE, "")
    assert VARIABLE in refusal(capsys, f"--model={name}")
    command = _audit_command(RequestedAudit(name, "3"), environments={name: None})
    parameters = _split_params(None, None, command[command.index("--params") + 1])
    named = TrackingParameters(**parameters["tracking"]).registered_model
    assert (named.name, named.version) == (name, "3")


@pytest.mark.usefixtures("project")
def test_without_the_extra_it_says_what_to_install(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    said = refusal(capsys, "--model", "churn=mine")
    assert "the package uvicorn is not installed" in said
    assert "pip install 'sourcetrace[webhooks]'" in said


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def until_healthy(port, process):
    deadline = time.monotonic() + 120
    while True:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        try:
            connection.request("GET", "/health")
            return json.loads(connection.getresponse().read())
        except ConnectionError:
            time.sleep(0.1)
        finally:
            connection.close()


def started(port):
    """Return a receiver that has begun to listen."""
    receiver = subprocess.Popen(
        [
            *(sys.executable, "-m", "sourcetrace", "webhooks", "--model", "churn=mine"),
            *("--port", str(port)),
        ],
        env={**os.environ, "DO_NOT_TRACK": "true"},
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    until_healthy(port, receiver)
    return receiver


@pytest.mark.slow
def test_it_receives_audits_and_ends_when_it_is_told_to(project):
    """The audit itself fails at once: this folder is no project. The queue is what counts."""
    port = free_port()
    receiver = started(port)
    body = event()
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request("POST", "/mlflow", body, headers(body, timestamp=time.time()))
    assert connection.getresponse().status == 202
    connection.close()
    deadline = time.monotonic() + 120
    while until_healthy(port, receiver) != {"status": "ok", "waiting": 0, "running": 0}:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    receiver.send_signal(signal.SIGTERM)
    _, said = receiver.communicate(timeout=60)
    assert receiver.returncode == 0, said
    assert "An audit of churn version 3 waits." in said
    assert "Audit of churn version 3: exit code 2." in said
    assert SECRET not in said
    assert "Traceback" not in said


@pytest.mark.slow
@pytest.mark.usefixtures("project")
def test_ctrl_c_ends_it_in_silence():
    receiver = started(free_port())
    receiver.send_signal(signal.SIGINT)
    _, said = receiver.communicate(timeout=60)
    assert receiver.returncode == 0, said
    assert "Traceback" not in said
