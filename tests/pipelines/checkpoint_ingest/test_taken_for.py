"""What sub-folders were taken for is said, loudly where it may be wrong."""

import logging
from types import SimpleNamespace

import pytest

from sourcetrace.datasets import CheckpointsDataset
from sourcetrace.pipelines.checkpoint_ingest.taken_for import say_what_folders_are
from tests.pipelines.test_checkpoint_ingest import Whole, save_run


@pytest.mark.parametrize(
    ("folders", "level", "words"),
    [
        ({".": [10, 20]}, None, ""),
        ({"seed_0": [10, 20], "seed_1": [10, 20]}, logging.INFO, "2 trainings of the same model"),
        # Other names, or other lengths: two stages, perhaps.
        ({"pretrain": [10, 20], "tune": [10, 20]}, logging.WARNING, "name them in checkpoints.st"),
        ({"part_1": [10, 20], "part_2": [30, 40]}, logging.WARNING, "name them in checkpoints.st"),
        ({"checkpoint-10": [10], "checkpoint-20": [20]}, None, ""),
        ({"seed_0": [10], "seed_1": [20]}, logging.WARNING, "checkpoints of one training"),
    ],
)
def test_sub_folders_are_said_to_be_what_they_were_taken_for(
    tmp_path, caplog, folders, level, words
):
    for name, steps in folders.items():
        save_run(tmp_path / name, Whole(), steps)
    folder = CheckpointsDataset(path=str(tmp_path)).load()
    found = [folder.load(file, Whole().build_model()) for file in folder.files()]
    with caplog.at_level(logging.INFO):
        say_what_folders_are(found)
    said = [(record.levelno, record.getMessage()) for record in caplog.records]
    assert [one for one, _ in said] == ([] if level is None else [level])
    assert words in caplog.text


def test_stages_in_folders_of_their_own_need_no_word(caplog):
    found = [
        SimpleNamespace(
            file=f"{name}/checkpoint-{step}", record=SimpleNamespace(run="", stage=name, step=step)
        )
        for name, step in (("pretrain_1", 10), ("tune_2", 20))
    ]
    with caplog.at_level(logging.INFO):
        say_what_folders_are(found)
    assert not caplog.records
