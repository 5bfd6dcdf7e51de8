import subprocess

import pytest

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
