"""The environment of a run, as tags."""

import subprocess
import sys

import pytest

from sourcetrace.audit.identity.code_revision import CodeRevision
from sourcetrace.tracking.lineage.environment import device_tag, environment_tags


def test_versions_are_there_with_and_without_a_repository(tmp_path):
    tags = environment_tags(tmp_path)
    assert {"sourcetrace.version", "sourcetrace.python", "sourcetrace.polars"} <= set(tags)
    assert "mlflow.source.git.commit" not in tags


def test_a_repository_has_a_revision_and_says_whether_files_differ(tmp_path):
    def git(*arguments):
        who = ("-c", "user.name=a", "-c", "user.email=a@example.org")
        subprocess.run(["git", "-C", str(tmp_path), *who, *arguments], check=True)

    git("init", "-q")
    git("commit", "-q", "--allow-empty", "-m", "first")
    tags = environment_tags(tmp_path)
    assert len(tags["mlflow.source.git.commit"]) == 40
    assert tags["sourcetrace.git.dirty"] == "false"
    (tmp_path / "file").touch()
    assert environment_tags(tmp_path)["sourcetrace.git.dirty"] == "true"


@pytest.mark.parametrize(
    ("remote", "address"),
    [
        ("https://me:hunter2@host/team/repo.git", "https://host/team/repo.git"),
        ("git@host.org:team/repo.git", "ssh://host.org/team/repo.git"),
        ("ssh://git@host.org:22/team/repo.git", "ssh://host.org:22/team/repo.git"),
        ("/somewhere/on/this/machine", None),
        ("C:/somewhere", None),
        (None, None),
    ],
)
def test_the_repositorys_address_has_no_user_and_is_no_folder(tmp_path, remote, address):
    subprocess.run(["git", "-C", str(tmp_path), "init", "-q"], check=True)
    if remote is not None:
        command = ["git", "-C", str(tmp_path), "remote", "add", "origin", remote]
        subprocess.run(command, check=True)
    assert CodeRevision.address(tmp_path) == address


@pytest.mark.parametrize("requested", ["auto", "cpu"])
def test_the_device_is_the_one_that_was_used_and_none_without_torch(monkeypatch, requested):
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert device_tag(requested) == {"sourcetrace.device": "cpu"}
    monkeypatch.delitem(sys.modules, "torch")
    assert device_tag(requested) == {}
