import gc
import subprocess
import sys

import pytest

from sourcetrace.imports import lasting


@pytest.fixture(autouse=True)
def thawed():
    yield
    gc.unfreeze()


def test_nothing_is_collected_while_modules_are_imported_or_of_them_later(tmp_path, monkeypatch):
    (tmp_path / "imported_once.py").write_text("KEPT = [[] for _ in range(100_000)]")
    monkeypatch.syspath_prepend(tmp_path)
    collected = gc.get_stats()[0]["collections"]
    with lasting():
        import imported_once
    assert gc.get_stats()[0]["collections"] <= collected + 1
    assert gc.isenabled()
    assert not any(one is imported_once.KEPT[0] for one in gc.get_objects())
    sys.modules.pop("imported_once")


def test_without_an_import_nothing_is_kept_from_a_collection():
    frozen = gc.get_freeze_count()
    with lasting():
        import sys  # noqa: F401
    assert gc.get_freeze_count() == frozen


def test_a_collection_that_was_off_stays_off():
    gc.disable()
    try:
        with lasting():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_hooks_import_nothing_that_computes():
    heavy = {"torch", "scipy.stats", "sklearn", "altair"}
    script = f"import sys, sourcetrace.settings; print({heavy} & set(sys.modules))"
    said = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert said.stdout.strip() == "set()"
