"""Results are made of the code that computes and writes them."""

import shutil
from functools import partial
from pathlib import Path

import pytest

from sourcetrace.audit.identity import made_of


@pytest.mark.parametrize(
    ("file", "counts"),
    [
        ("core/methods/score.py", True),
        ("datasets/score_files.py", True),
        ("schemas/scores.py", True),
        ("reporting/records.py", False),
        ("reporting/templates/page.html.j2", False),
    ],
)
def test_code_that_a_unit_s_bytes_depend_on_counts(tmp_path, monkeypatch, file, counts):
    package = tmp_path / "sourcetrace"
    shutil.copytree(Path(made_of.__file__).parents[2], package)
    monkeypatch.setattr(made_of, "__file__", str(package / "audit/identity/made_of.py"))
    of_results = partial(made_of.code_part.__wrapped__, *made_of._COMPUTING)
    before, of_all = of_results(), made_of.code_part.__wrapped__()
    with (package / file).open("a") as changed:
        changed.write("\n_OTHER = 1\n")
    assert (of_results() != before) == counts
    assert made_of.code_part.__wrapped__() != of_all


def test_what_python_and_others_write_beside_the_code_does_not_count(tmp_path, monkeypatch):
    package = tmp_path / "sourcetrace"
    (package / "core/__pycache__").mkdir(parents=True)
    (package / "core/score.py").write_text("")
    monkeypatch.setattr(made_of, "__file__", str(package / "audit/identity/made_of.py"))
    before = made_of.code_part.__wrapped__("core")
    (package / "core/__pycache__/score.cpython-312.pyc.140234").write_bytes(b"half")
    (package / "core/.ipynb_checkpoints").mkdir()
    assert made_of.code_part.__wrapped__("core") == before


def test_a_curvature_that_may_be_kept_tells_results_apart_from_the_fitting_on():
    def of(**attribution):
        parameters = {"task": {"class": "a.Task"}, "attribution": attribution}
        return made_of.MadeOf.of(parameters, data="", checkpoints="", code="")

    full, kept = of(), of(kept_curvature=0.02)
    assert not kept.differences(full, "gradient_extraction")
    for stage in ("ekfac_fitting", "source_scoring", "cleaning_report"):
        assert kept.differences(full, stage) == "another kept_curvature"
