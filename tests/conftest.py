"""Settings every test shares."""

import os
import shutil

# The networks are tiny: starting threads costs more than they save, and those of two tests at once
# wait for each other. For the commands that tests start, too.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
# As the commands set it before they import MLflow, which asks once.
os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
os.environ.setdefault("DO_NOT_TRACK", "true")

import mlflow
import pytest
import torch
from filelock import FileLock

import tests.unsynced  # noqa: F401
from tests.chromium import CHROMIUM, OPTIONS

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _registry_as_before():
    """Forget the registry that a test's audit named: MLflow keeps it for all of the process."""
    yield
    if os.environ.pop("MLFLOW_REGISTRY_URI", None) is not None:
        mlflow.set_registry_uri(None)


@pytest.fixture(scope="module")
def browser():
    """Chromium; without it, or without Playwright, the test is skipped."""
    playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("Chromium is not installed")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=OPTIONS)
        yield browser
        browser.close()


@pytest.fixture
def visit(browser):
    """Return what opens a file; at the end it asked for nothing, and the console is silent."""
    said, asked, contexts = [], [], []

    def visit(file, **options):
        context = browser.new_context(**options)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(20_000)
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(file.as_uri())
        return page

    visit.said, visit.asked = said, asked
    yield visit
    for context in contexts:
        context.close()
    assert said == []
    assert all(address.startswith(("file:", "data:", "blob:")) for address in asked)


@pytest.fixture(scope="session")
def short_demo(tmp_path_factory):
    """Return a function that makes a project whose demo was trained for two epochs and audited.

    It is made once, for all of xdist's processes together, and copied.
    """
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent
    project, done = folder / "short demo", folder / "short demo.done"
    with FileLock(folder / "short demo.lock"):
        if not done.exists():
            # A test module: what it has is imported where it is asked for.
            from tests.test_commands import kedro, make_project

            run = kedro(
                make_project(project), "run", "--params", "demo.epochs=2,demo.checkpoints=2"
            )
            assert run.returncode == 0, run.stderr[-3000:]
            done.touch()
    return lambda copy: shutil.copytree(project, copy)


def pytest_collection_modifyitems(items):
    """Begin with the files that have slow tests: the last one is nobody's to wait for alone."""
    slow = {
        item.path for item in items if {"slow", "service"} & {m.name for m in item.iter_markers()}
    }
    items.sort(key=lambda item: item.path not in slow)
