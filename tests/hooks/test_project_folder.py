"""Programs of an environment are found."""

import os
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

from sourcetrace.hooks.project_folder import ProjectFolderHook


def test_programs_of_an_environment_that_is_not_activated_are_found(monkeypatch, tmp_path):
    """`kedro mlflow ui` starts `mlflow` by its name."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setenv("PATH", str(tmp_path))
    assert shutil.which("mlflow") is None
    for _ in range(2):
        ProjectFolderHook().after_context_created(SimpleNamespace(project_path=tmp_path))
    assert shutil.which("mlflow") == str(Path(sys.executable).with_name("mlflow"))
    assert os.environ["PATH"].count(os.pathsep) == 1
