"""What the receiver answers, over HTTP."""

import http.client
import json
import socket
import threading
import time
from contextlib import ExitStack, contextmanager, suppress

import pytest
import uvicorn

from sourcetrace.integrations.webhooks import server as receiver
from sourcetrace.integrations.webhooks.queue import AuditQueue
from sourcetrace.integrations.webhooks.server import SERVER_OPTIONS, make_application
from tests.integrations.webhooks.messages import NOW, SECRET, event, headers


@contextmanager
def served(queue):
    """Serve the application on a free port of this machine, and yield the port."""
    application = make_application(queue, secret=SECRET, models={"churn"}, tolerance_seconds=300)
    server = uvicorn.Server(uvicorn.Config(application, **SERVER_OPTIONS))
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            yield listening.getsockname()[1]
        finally:
            server.should_exit = True
            thread.join()


@pytest.fixture
def open_queue(tmp_path):
    return lambda: AuditQueue(tmp_path / "queue.sqlite", remember_seconds=600, now=lambda: NOW)


@pytest.fixture
def port(open_queue):
    with served(open_queue()) as found:
        yield found


def post(port, body, given=None, *, path="/mlflow"):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("POST", path, body, headers(body) if given is None else given)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()


def test_a_signed_event_is_queued_and_the_health_page_names_no_model(port, open_queue):
    assert post(port, event()) == (202, '{"status":"queued"}')
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request("GET", "/health")
    answer = connection.getresponse()
    assert answer.status == 200
    assert json.loads(answer.read()) == {"status": "ok", "waiting": 1, "running": 0}
    connection.close()
    assert open_queue().take().version == "3"


def test_an_event_that_asks_for_nothing_is_ignored(port, open_queue):
    body = event("model_version_tag.set", key="audit.status", value="pass")
    assert post(port, body) == (202, '{"status":"ignored"}')
    assert open_queue().take() is None


@pytest.mark.parametrize(
    ("body", "given", "status"),
    [
        (event(), {}, 400),
        (event(), {**headers(event()), "X-MLflow-Signature": "v1,AAAA"}, 401),
        (event(), headers(event(), secret="another secret"), 401),
        (event(), headers(event(), timestamp=NOW - 301), 400),
        (event(), headers(event(), timestamp=NOW + 301), 400),
        (b"not JSON", None, 400),
        (event(name="fraud"), None, 422),
        (b" " * (receiver._LONGEST_BODY + 1), None, 413),
    ],
)
def test_what_is_refused_queues_nothing(port, open_queue, body, given, status):
    assert post(port, body, given)[0] == status
    assert open_queue().counts()["waiting"] == 0


def test_a_replay_is_refused_after_a_restart_too(open_queue):
    for expected in ([202, 409], [409]):
        with served(open_queue()) as port:
            assert [post(port, event())[0] for _ in expected] == expected
    assert open_queue().counts()["waiting"] == 1


def test_what_was_refused_once_cannot_be_sent_again(port):
    body = event(name="fraud")
    assert [post(port, body)[0] for _ in range(2)] == [422, 409]


def test_other_paths_and_methods_are_not_there(port):
    assert post(port, event(), path="/")[0] == 404
    assert post(port, event(), path="/mlflow/../../etc/passwd")[0] == 404
    assert post(port, event(), path="/health")[0] == 405


def raw(port, text):
    """Send bytes, end the sending side, and return what comes back."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(text)
        connection.shutdown(socket.SHUT_WR)
        received = b""
        while part := connection.recv(4096):
            received += part
    return received


def request_text(body, *, length):
    lines = [f"{name}: {value}" for name, value in headers(body).items()]
    head = ["POST /mlflow HTTP/1.1", "Host: localhost", *lines, length, "", ""]
    return "\r\n".join(head).encode() + body


def test_a_body_that_breaks_off_queues_nothing(port, open_queue):
    body = event()
    assert b"202" not in raw(port, request_text(body, length=f"Content-Length: {len(body) + 9}"))
    assert open_queue().counts()["waiting"] == 0
    assert post(port, body)[0] == 202


def test_connections_on_which_no_request_comes_keep_nobody_out_and_are_ended(
    port, open_queue, monkeypatch
):
    monkeypatch.setattr(receiver, "_CONNECTION_SECONDS", 0.5)
    body = event()
    whole = request_text(body, length=f"Content-Length: {len(body) + 9}")
    beginnings = [b"", whole[:20], whole]
    with ExitStack() as stack:
        half_open = []
        for number in range(60):
            connection = socket.create_connection(("127.0.0.1", port), timeout=10)
            half_open.append(stack.enter_context(connection))
            connection.sendall(beginnings[number % 3])
        begun = time.monotonic()
        assert post(port, body)[0] == 202
        assert time.monotonic() - begun < 5
        for connection in half_open:
            with suppress(ConnectionResetError):
                assert connection.recv(1) == b""
    assert open_queue().counts()["waiting"] == 1


def test_more_connections_than_are_served_keep_others_out_for_a_while_only(open_queue, monkeypatch):
    monkeypatch.setattr(receiver, "_CONNECTION_SECONDS", 0.5)
    monkeypatch.setitem(SERVER_OPTIONS, "limit_concurrency", 3)
    with served(open_queue()) as port, ExitStack() as stack:
        for _ in range(3):
            stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=10))
        assert post(port, event())[0] == 503
        deadline = time.monotonic() + 5
        while (status := post(port, event())[0]) == 503:
            assert time.monotonic() < deadline
        assert status == 202


def test_a_long_body_of_unknown_length_is_cut_off(port, monkeypatch):
    monkeypatch.setattr(receiver, "_LONGEST_BODY", 100)
    part = b"10\r\n" + b" " * 16 + b"\r\n"
    head = b"POST /mlflow HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
    assert raw(port, head + part * 20).startswith(b"HTTP/1.1 413")


def test_no_answer_has_the_secret(port):
    assert SECRET not in post(port, b"{", {"X-MLflow-Signature": "v1,"})[1]
