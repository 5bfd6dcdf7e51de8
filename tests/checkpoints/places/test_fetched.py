"""The cache: what is there is what lies at the place, whole, and inside its folder."""

import shutil
from collections import namedtuple

import pytest

from sourcetrace.checkpoints.places.fetched import RemoteFile, fetch, is_read
from sourcetrace.errors import InputError


class Place:
    """Files in memory; a stamp is their content unless a test says otherwise."""

    is_file = False

    def __init__(self, files, address="s3://user:word@bucket/run", stamps=None):
        self.content, self.address, self.stamps = files, address, stamps
        self.downloaded = []

    def files(self):
        return [
            RemoteFile(name, len(text), text if self.stamps is None else self.stamps)
            for name, text in self.content.items()
        ]

    def download(self, name, target):
        self.downloaded.append(name)
        target.write_text(self.content[name])


def held(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_text()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.fixture
def cache(tmp_path):
    return str(tmp_path / "cache")


def test_what_changed_is_fetched_again_and_what_is_gone_goes(cache):
    files = {"a.pt": "one", "deep/er/b.pt": "two", "c.pt": "three"}
    folder = fetch(Place(files), cache)
    assert held(folder) == files
    now = Place({"a.pt": "one", "c.pt": "THREE"})
    assert fetch(now, cache) == folder
    assert now.downloaded == ["c.pt"]
    assert held(folder) == now.content
    assert not (folder / "deep").exists()


def test_without_a_stamp_everything_is_fetched_each_time(cache):
    for _ in range(2):
        place = Place({"a.pt": "one"}, stamps="")
        fetch(place, cache)
        assert place.downloaded == ["a.pt"]


@pytest.mark.parametrize("damage", ["cut", "gone", "record"])
def test_a_damaged_cache_is_mended(cache, damage):
    folder = fetch(Place({"a.pt": "one"}), cache)
    if damage == "record":
        folder.with_name(f"{folder.name}.json").write_text("[")
    elif damage == "cut":
        (folder / "a.pt").write_text("o")
    else:
        shutil.rmtree(folder)
    place = Place({"a.pt": "one"})
    assert held(fetch(place, cache)) == {"a.pt": "one"}
    assert place.downloaded == ["a.pt"]


def test_a_file_that_breaks_off_leaves_neither_a_part_nor_the_old_one_as_new(cache):
    folder = fetch(Place({"a.pt": "one"}), cache)

    class Broken(Place):
        def download(self, name, target):
            target.write_text("n")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch(Broken({"a.pt": "new"}), cache)
    assert held(folder) == {"a.pt": "one"}
    assert held(fetch(Place({"a.pt": "new"}), cache)) == {"a.pt": "new"}


def test_a_file_of_another_size_than_was_said_is_refused(cache):
    class Short(Place):
        def download(self, name, target):
            target.write_text("o")

    with pytest.raises(InputError, match=r"a\.pt at s3://\*\*\*@bucket/run was cut short"):
        fetch(Short({"a.pt": "one"}), cache)


@pytest.mark.parametrize(
    "name", ["../a.pt", "/etc/a.pt", "a/../../b.pt", "a//b.pt", "..\\a.pt", "C:a.pt", "a\0.pt", "."]
)
def test_a_name_that_leads_out_of_the_folder_is_refused(cache, tmp_path, name):
    with pytest.raises(InputError, match="outside the folder"):
        fetch(Place({"b.pt": "", name: "x"}), cache)
    assert not list(tmp_path.iterdir())


def test_what_does_not_fit_the_disk_is_not_begun(cache, monkeypatch):
    free = namedtuple("usage", "free")(2)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: free)
    place = Place({"a.pt": "one"})
    with pytest.raises(InputError, match=r"3.B of checkpoints at .*2.B free.*checkpoints\.cache"):
        fetch(place, cache)
    assert not place.downloaded


@pytest.mark.parametrize("names", [("a.pt", "a.pt/b.pt"), ("x" * 300 + ".pt",)])
def test_names_that_this_disk_cannot_have_are_refused(cache, names):
    with pytest.raises(InputError, match="cannot be kept"):
        fetch(Place(dict.fromkeys(names, "x")), cache)


def test_a_place_without_checkpoints_is_refused(cache):
    with pytest.raises(InputError, match="nothing that is read lies at"):
        fetch(Place({}), cache)


def test_only_what_readers_need_is_listed():
    read = [
        *("step_1.pt", "checkpoint-20/optimizer.pt", "model-00001-of-00002.safetensors"),
        *("checkpoint-20/trainer_state.json", "dcp/.metadata", "dcp/__0_0.distcp", "last.ckpt"),
    ]
    unread = [
        *("runs/events.out.tfevents.1", "training_args.bin", "checkpoint-20/rng_state.pth"),
        *("README.md", "checkpoint-20/rng_state_0.pth", "checkpoint-20/tokenizer.json", "a.png"),
    ]
    assert [name for name in read + unread if is_read(name)] == read
