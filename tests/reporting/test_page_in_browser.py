"""The page in headless Chromium: no console message, no request, no sideways scrolling."""

import re
import threading
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from sourcetrace.audit.comparison.changes import compare_examples
from tests.audit.comparison.examples import audit, second_audit
from tests.audit.gate.examples import verdict
from tests.chromium import CHROMIUM, open_page
from tests.reporting.content import compared_audit, ground_truth, page_content, verification

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed"),
]

# A window cannot be as narrow as a phone, a frame can. Closed parts are opened first.
PHONE = """<!DOCTYPE html><link rel="icon" href="data:,"><body style="margin:0">
<iframe src="/page" style="border:0;width:390px;height:800px"></iframe>
<script>
document.querySelector("iframe").onload = function () {
  const page = this.contentDocument;
  for (const closed of page.querySelectorAll("details")) closed.open = true;
  document.body.dataset.width = page.documentElement.scrollWidth;
  document.body.dataset.elements = page.querySelectorAll("*").length;
};
</script>"""


@contextmanager
def served(pages):
    """Serve pages by path; yield the address and the list of paths asked for."""
    asked = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            body = pages.get(self.path, "").encode()
            self.send_response(200 if body else 404)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def visit(address):
    """Return the document after loading and what the console said."""
    run = open_page(address, "--enable-logging=stderr", "--dump-dom")
    return run.stdout, re.findall(r"^.*CONSOLE.*$", run.stderr, re.MULTILINE)


@pytest.fixture(scope="module")
def page():
    content = page_content(
        120,
        suspects=40,
        prefix="a-very/long.identifier_without_any_space_in_it/" * 3,
        label="a rather long class name, ",
        reason="Unbroken" * 30,
    )
    report = verdict(
        {"metric": "class_concentration", "at_most": 2.0, "severity": "warn"},
        {"metric": "trust_lds", "at_least": 0.5},
        class_concentration=3.0,
        trust_lds=None,
    )
    names = content.review_list["example_id"]
    before, now = (
        audit(*((name, name, "a rather long class name", suspect) for name in names))
        for suspect in (False, True)
    )
    return replace(
        content,
        ground_truth=ground_truth("review list", "loss" * 30),
        comparison=compared_audit(second_audit(), compare_examples(now, before)),
        verification=verification(),
        gate=report.model_copy(update={"scores_digest": content.summary.scores_digest}),
    ).render()


def test_it_asks_for_nothing_and_the_console_is_silent(page):
    with served({"/page": page}) as (address, asked):
        document, console = visit(address + "/page")
    assert "Verified:" in document
    assert console == []
    assert asked == ["/page"]


def test_a_request_would_have_been_noticed(page):
    spoiled = page.replace("</body>", '<img src="/picture.png" alt=""></body>')
    with served({"/page": spoiled}) as (address, asked):
        _, console = visit(address + "/page")
    # The page's own policy stops it, and the console tells.
    assert any("Content Security Policy" in line for line in console)
    assert asked == ["/page"]


def test_it_fits_a_phone(page):
    with served({"/phone": PHONE, "/page": page}) as (address, _):
        document, console = visit(address + "/phone")
    assert console == []
    measured = dict(re.findall(r'data-(width|elements)="(\d+)"', document))
    assert int(measured["elements"]) > 1000
    assert int(measured["width"]) <= 390
