import subprocess

import pytest

from sourcetrace.audit.identity.code_revision import CodeRevision
from sourcetrace.datasets import CodeRevisionDataset


def test_a_folder_outside_a_repository_has_no_revision_and_one_inside_has(tmp_path):
    dataset = CodeRevisionDataset(path=str(tmp_path))
    assert dataset.load() == {}
    who = ("-c", "user.name=a", "-c", "user.email=a@example.org")
    for command in (["init", "-q"], ["commit", "-q", "--allow-empty", "-m", "first"]):
        subprocess.run(["git", "-C", str(tmp_path), *who, *command], check=True)
    found = dataset.load()
    assert len(found["commit"]) == 40
    assert found["dirty"] is False
    with pytest.raises(Exception, match="git's own"):
        dataset.save({})


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
