"""A receiver of alerts on this machine that answers as a test says."""

import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class _Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.got.append((dict(self.headers), body))
        answer = next(self.server.answers)
        if isinstance(answer, threading.Event):
            answer.wait()
            return
        self.send_response(answer)
        if answer == 302:
            self.send_header("Location", "/elsewhere")
        self.end_headers()

    def log_message(self, *_):
        pass


class Receiver(ThreadingHTTPServer):
    """Keeps headers and bodies in `got`."""

    def __init__(self, answers):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answers, self.got = iter(answers), []

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}/hooks/T0KEN"

    @property
    def alerts(self):
        return [json.loads(body) for _, body in self.got]


def as_of_mlflow(headers):
    """Return the headers as MLflow calls them, whose signature ours is."""
    return {name.replace("X-Sourcetrace-", "X-MLflow-"): value for name, value in headers.items()}


@contextmanager
def receiving(*answers):
    """Answer with these statuses, one after the other; an event: once it is set, nothing."""
    receiver = Receiver(answers)
    thread = threading.Thread(target=receiver.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield receiver
    finally:
        for answer in answers:
            if isinstance(answer, threading.Event):
                answer.set()
        receiver.shutdown()
        receiver.server_close()
        thread.join()
