"""Whatever `checkpoints.path` is, the same checkpoints come of it."""

import logging
from inspect import signature

import fsspec
import pytest
import torch
from kedro.io import DataCatalog, DatasetError
from torch import nn

from sourcetrace.audit.identity.made_of import MadeOf
from sourcetrace.datasets import CheckpointsDataset
from sourcetrace.hooks.terminal import readable_error
from sourcetrace.parameters import CheckpointParameters
from tests.checkpoints.test_folder import checkpoint


def read(path, **options):
    folder = CheckpointsDataset(path=path, **options).load()
    loaded = [folder.load(file, nn.Linear(2, 1)) for file in folder.files()]
    for one in loaded:  # as the later stages find them, by the manifest's names
        assert folder.weights(one.file, one.sha256, nn.Linear(2, 1)).keys() == {"weight", "bias"}
    assert folder.file_digests() == {one.file: one.sha256 for one in loaded}
    assert {one.record.run for one in loaded} == {""}
    return [(one.record.step, one.file) for one in loaded]


def refusal(path, **options):
    with pytest.raises(DatasetError) as caught:
        CheckpointsDataset(path=path, **options).load()
    return str(readable_error(caught.value))


def test_an_entry_takes_the_parameters_and_no_others():
    assert (
        signature(CheckpointsDataset).parameters.keys() == CheckpointParameters.model_fields.keys()
    )
    entry = {"type": "sourcetrace.datasets.CheckpointsDataset", "path": "here", "at_most": 3}
    catalog = DataCatalog({"checkpoints": CheckpointsDataset(path="here", at_most=3)})
    assert catalog.to_config()[0]["checkpoints"]["at_most"] == 3
    # When it is made, before any node: the demo would train, and fail behind it.
    with pytest.raises(DatasetError, match="at_mots"):
        _ = DataCatalog.from_config({"checkpoints": {**entry, "at_mots": 3}})["checkpoints"]


@pytest.fixture
def trained(tmp_path):
    """Checkpoints of steps 1 to 3."""
    for step, name in enumerate(("one/a.pt", "one/b.pt", "two/deep/a.pt"), 1):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        torch.save(checkpoint(step), tmp_path / name)
    return tmp_path


def test_a_home_and_a_file_address_are_folders(trained, monkeypatch):
    monkeypatch.setenv("HOME", str(trained))
    both = [(1, "a.pt"), (2, "b.pt")]
    assert read("~/one") == read(f"file://{trained}/one") == read(str(trained / "one")) == both
    assert read(f"file://localhost{trained}/one") == both


def test_a_file_is_an_audit_of_one_checkpoint(trained):
    assert read(str(trained / "one/b.pt")) == read(f"file://{trained}/one/b.pt") == [(2, "b.pt")]


def test_several_paths_are_one_run_in_their_order(trained, monkeypatch):
    every = [(1, "one/a.pt"), (2, "one/b.pt"), (3, "two/deep/a.pt")]
    assert read([str(trained / "one"), str(trained / "two/deep/a.pt")]) == every
    monkeypatch.chdir(trained)
    assert read(["one/a.pt", "one/b.pt", str(trained / "two/deep")]) == every


@pytest.mark.parametrize("path", [None, 5, "", [], ["one", ""]])
def test_what_is_no_path_is_refused(path):
    assert "checkpoints.path: expected a folder, a file or an" in refusal(path)


def test_other_machines_and_users_are_refused():
    assert "names the machine 'data'" in refusal("file://data/checkpoints")
    assert "who has none here" in refusal("~nobody-of-that-name/checkpoints")


def test_a_file_that_is_no_checkpoint_is_refused_by_its_name(trained):
    (trained / "notes.txt").write_text("x")
    with pytest.raises(Exception, match=r"notes\.txt' is no checkpoint that is read"):
        CheckpointsDataset(path=str(trained / "notes.txt")).load().files()


def test_a_run_fetches_once_and_the_next_one_sees_what_changed(trained, monkeypatch, caplog):
    monkeypatch.chdir(trained)
    memory = fsspec.filesystem("memory")
    memory.pipe("/bucket/run/a.pt", (trained / "one/a.pt").read_bytes())
    dataset = CheckpointsDataset(path="memory://bucket/run", storage_options={"key": "s3cr3t"})
    with caplog.at_level(logging.DEBUG, "sourcetrace"):
        first = dataset.load().file_digests()
    memory.pipe("/bucket/run/a.pt", (trained / "one/b.pt").read_bytes())
    assert dataset.load().file_digests() == first
    assert read("memory://bucket/run") == [(2, "a.pt")]
    assert "Fetching 1 file" in caplog.text
    assert "s3cr3t" not in caplog.text + repr(dataset) + str(dataset._describe())
    memory.rm("/bucket", recursive=True)


def test_a_list_may_have_addresses_and_rates_an_address(trained, monkeypatch):
    monkeypatch.chdir(trained)
    memory = fsspec.filesystem("memory")
    memory.pipe("/bucket/first/a.pt", (trained / "one/a.pt").read_bytes())
    memory.pipe("/bucket/rates.txt", b"step,learning_rate\n1,0.1\n2,0.2\n")
    several = ["memory://bucket/first", str(trained / "one/b.pt")]
    assert [step for step, _ in read(several)] == [1, 2]
    rates = {"learning_rates": "memory://bucket/rates.txt"}
    folder = CheckpointsDataset(path=several, **rates).load()
    assert folder.learning_rates(2).rates.tolist() == [[0.1], [0.2]]
    # What the audit's identity has is the content, wherever it came from.
    (trained / "rates.csv").write_bytes(b"step,learning_rate\n1,0.1\n2,0.2\n")
    made = [
        MadeOf.of(
            {"task": {"class": "a.Task"}, "checkpoints": {"learning_rates": address}},
            data="",
            checkpoints="",
            code="",
        ).segments
        for address in (rates["learning_rates"], "rates.csv", None)
    ]
    assert made[0] == made[1] != made[2]
    memory.rm("/bucket", recursive=True)


def test_the_demo_writes_to_no_address():
    with pytest.raises(DatasetError, match="no folder on this machine"):
        CheckpointsDataset(path="memory://bucket/run").save([checkpoint()])
