"""Pictures that Pillow wrote, read as training reads them; what is damaged or dangerous."""

import struct
import zlib

import numpy as np
import polars as pl
import pytest
import torch
from PIL import Image

from sourcetrace.errors import InputError
from sourcetrace.tasks import ClassificationTask, TaskBase
from sourcetrace.tasks.data import ImageData
from sourcetrace.tasks.set_aside import without_unusable
from tests.tasks.data.checked import checked_tables

RANDOM = np.random.default_rng(0)


class Pets(ImageData, ClassificationTask):
    pass


def picture(height=6, width=4, channels=3):
    shape = (height, width, channels) if channels > 1 else (height, width)
    return Image.fromarray(RANDOM.integers(0, 256, shape, dtype=np.uint8))


@pytest.fixture
def folder(tmp_path):
    """Two classes with two pictures each, and what is no picture."""
    for label in ("dogs", "cats"):
        (tmp_path / "train" / label / "deep").mkdir(parents=True)
        picture().save(tmp_path / "train" / label / "0.png")
        picture().save(tmp_path / "train" / label / "deep/1.PNG")
        (tmp_path / "train" / label / "notes.txt").write_text("none")
    picture().save(tmp_path / "train/stray.png")
    (tmp_path / "train/empty").mkdir()
    return tmp_path / "train"


def made(train, queries=None, task=Pets, **more):
    return task(train=train, queries=train if queries is None else queries, **more)


def test_a_folder_of_classes_is_read_as_image_folder_reads_it(folder):
    picture().save(folder / "cats/2.gif")
    task = made(str(folder))
    assert task.label_names == ["cats", "dogs", "empty"]
    training, _ = checked_tables(task)
    assert training["example_id"].to_list() == [
        "cats/0.png",
        "cats/deep/1.PNG",
        "dogs/0.png",
        "dogs/deep/1.PNG",
    ]
    assert [int(item[1]) for item in task.train_examples()] == [0, 0, 1, 1]
    inputs = task.train_examples()[2][0]
    expected = np.asarray(Image.open(folder / "dogs/0.png"), dtype=np.float32) / 255
    assert torch.equal(inputs, torch.from_numpy(expected).movedim(-1, 0))
    assert np.allclose(task.picture(2), expected)


def test_classes_called_by_numbers_are_in_the_order_of_their_names(tmp_path):
    for label in ("2", "10"):
        (tmp_path / label).mkdir()
        picture().save(tmp_path / label / "0.png")
    assert made(str(tmp_path)).label_names == ["10", "2"]  # as ImageFolder has it


def test_a_linked_class_folder_is_a_class_and_read_or_refused(folder):
    (folder / "birds").symlink_to(folder / "dogs")
    task = made(str(folder))
    assert task.label_names == ["birds", "cats", "dogs", "empty"]
    assert [int(item[1]) for item in task.train_examples()] == [0, 0, 1, 1, 2, 2]
    (folder.parent / "store").mkdir()
    for target in ("../store", "../train", ".", "birds", "nowhere"):
        (folder / "birds").unlink()
        (folder / "birds").symlink_to(target)
        with pytest.raises(InputError, match=r"birds is a link to .*no other folder below"):
            made(str(folder))


def test_mode_size_mean_and_std_are_what_was_asked_for(folder):
    mean, std = (0.5, 0.4, 0.3), (0.2, 0.25, 0.5)
    task = made(str(folder), size=[3, 5], mean=mean, std=std)
    inputs = task.train_examples()[0][0]
    small = Image.open(folder / "cats/0.png").resize((5, 3), Image.Resampling.BILINEAR)
    expected = (np.asarray(small) / 255 - mean) / std
    assert inputs.shape == (3, 3, 5)
    assert np.allclose(inputs.numpy().transpose(1, 2, 0), expected, atol=1e-6)
    assert task.picture(0).shape == (3, 5, 3)
    grey = made(str(folder), mode="L", mean=[0.5], std=[0.5])
    assert grey.train_examples()[0][0].shape == (1, 6, 4)
    assert grey.picture(0).shape == (6, 4)


def test_the_trainings_own_transform_takes_the_place_of_all_of_it(folder):
    class Cropped(Pets):
        def transform(self, picture):
            return torch.from_numpy(np.array(picture.crop((0, 1, 3, 4)))).double()

    picture(7, 4).save(folder / "dogs/0.png")
    task = made(str(folder), task=Cropped)
    expected = np.asarray(Image.open(folder / "dogs/0.png"))[1:4, :3]
    assert np.array_equal(task.train_examples()[2][0], expected)
    assert task.picture(2).shape == (7, 4, 3)


def test_a_table_has_paths_or_bytes_and_bytes_are_not_shown(folder):
    paths = pl.DataFrame({"where": ["cats/0.png", "dogs/0.png"], "label": [0, 1]})
    paths.write_csv(folder / "table.csv")
    raw = pl.DataFrame(
        {"where": [(folder / p).read_bytes() for p in paths["where"]], "label": [0, 1]}
    )
    by_path = made(str(folder / "table.csv"), image="where")
    by_bytes = made(raw, image="where")
    by_folder = made(paths, image="where", folder=str(folder))
    for task in (by_bytes, by_folder):
        assert all(
            torch.equal(one[0], other[0])
            for one, other in zip(task.train_examples(), by_path.train_examples(), strict=True)
        )
        # The same content, the same names.
        assert task.train_table()["example_id"].equals(by_path.train_table()["example_id"])
    assert "where" in by_path.train_table().columns
    assert "where" not in by_bytes.train_table().columns


def test_pictures_of_a_data_set_on_disk_are_read_with_its_class_names(tmp_path):
    datasets = pytest.importorskip("datasets")
    pictures = [picture() for _ in range(3)]
    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"])}
    )
    made_of = {"image": pictures, "label": [1, 0, 1]}
    datasets.Dataset.from_dict(made_of, features=features).save_to_disk(str(tmp_path / "pets"))
    task = made(str(tmp_path / "pets"), image="image")
    assert tuple(task.label_names) == ("cat", "dog")
    for item, expected in zip(task.train_examples(), pictures, strict=True):
        assert np.array_equal(
            (item[0].numpy() * 255).round(), np.asarray(expected).transpose(2, 0, 1)
        )


def test_without_labels_all_pictures_below_a_folder_are_examples(folder):
    class Own(ImageData, TaskBase):
        pass

    assert len(made(str(folder), task=Own, label=None).train_examples()) == 5


def test_damaged_pictures_are_refused_by_name_or_set_aside_up_to_a_share(folder):
    file = folder / "cats/0.png"
    file.write_bytes(file.read_bytes()[:60])
    task = made(str(folder))
    with pytest.raises(InputError, match=r"'cats/0.png' \(index 0\) cannot be used: cats/0\.png: "):
        checked_tables(task)
    training, _ = checked_tables(without_unusable(task, 0.25))
    assert training["example_id"].to_list() == ["cats/deep/1.PNG", "dogs/0.png", "dogs/deep/1.PNG"]


def test_pictures_of_another_size_need_a_size(folder):
    picture(7, 4).save(folder / "dogs/0.png")
    with pytest.raises(InputError, match=r"3 × 6 × 4 and 3 × 7 × 4 values.*name a size"):
        checked_tables(made(str(folder)))
    checked_tables(made(str(folder), size=[6, 4]))


@pytest.mark.parametrize("pixels", [120, 60])
def test_a_decompression_bomb_is_refused_before_it_is_decoded(folder, monkeypatch, pixels):
    picture(10, 12).save(folder / "cats/0.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", pixels - 1)
    with pytest.raises(InputError, match=r"cats/0\.png would have more pixels"):
        made(str(folder)).train_examples()[0]


def test_formats_that_call_other_programs_are_not_read(folder):
    picture().save(folder / "cats/0.eps")
    (folder / "cats/0.eps").rename(folder / "cats/0.png")
    with pytest.raises(InputError, match=r"cats/0\.png: cannot identify image file"):
        made(str(folder)).train_examples()[0]


def test_the_orientation_that_a_camera_noted_is_not_looked_at(folder):
    exif = Image.Exif()
    exif[0x0112] = 6
    picture().save(folder / "cats/0.png", exif=exif)
    assert made(str(folder)).picture(0).shape == (6, 4, 3)


@pytest.mark.parametrize("kind", ["png", "ppm"])
def test_sixteen_bits_of_several_channels_are_refused_too(folder, kind):
    def chunk(name, data):
        whole = name + data
        return struct.pack(">I", len(data)) + whole + struct.pack(">I", zlib.crc32(whole))

    values = RANDOM.integers(0, 2**16, (6, 4, 3)).astype(">u2")
    lines = b"".join(b"\0" + line.tobytes() for line in values)
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 4, 6, 16, 2, 0, 0, 0))
    files = {
        "png": b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(lines)),
        "ppm": b"P6 4 6 65535\n" + values.tobytes(),
    }
    (folder / "cats/0.png").write_bytes(files[kind])
    with pytest.raises(InputError, match=r"cats/0\.png: mode RGB, not 8 bits a channel"):
        made(str(folder)).train_examples()[0]
    Image.fromarray(values.astype(np.uint8)).save(folder / "cats/0.png", "ppm")
    made(str(folder)).train_examples()[0]


def test_sixteen_bits_are_refused_since_converting_cuts_values_off(folder):
    Image.fromarray(RANDOM.integers(0, 2**16, (6, 4), dtype=np.uint16)).save(folder / "cats/0.png")
    with pytest.raises(InputError, match=r"mode I;16, not 8 bits"):
        made(str(folder)).train_examples()[0]


@pytest.mark.parametrize(
    "path", ["../secret.png", "/etc/secret.png", "cats/../../secret.png", "cats/0.png"]
)
def test_a_path_that_leads_out_of_the_folder_is_refused(folder, path):
    picture().save(folder.parent / "secret.png")
    table = pl.DataFrame({"file": [path], "label": [0]})
    (folder / "cats/0.png").unlink()
    (folder / "cats/0.png").symlink_to("../../secret.png")
    for task in (lambda: made(table, folder=str(folder)), lambda: made(str(folder))):
        with pytest.raises(InputError, match="leads out of"):
            task()
    (folder / "cats/0.png").unlink()
    (folder / "cats/0.png").symlink_to("../dogs/0.png")
    assert len(made(str(folder)).train_examples()) == 4


def test_what_is_no_picture_is_refused(folder):
    table = pl.DataFrame({"file": ["lost.png"], "label": [0]})
    with pytest.raises(InputError, match=r"lost\.png: No such file"):
        made(table, folder=str(folder)).train_examples()[0]
    with pytest.raises(InputError, match="'file' holds Int32; expected paths"):
        made(table.with_columns(file=1))
    with pytest.raises(InputError, match="'file' is empty in 1 row of 1"):
        made(table.with_columns(file=pl.lit(None, dtype=pl.String)))
    with pytest.raises(InputError, match="holds no picture in a sub-folder"):
        made(str(folder / "cats/deep"))
    with pytest.raises(InputError, match=r"task\.arguments\.mean is \[0\.5, 0\.5\]"):
        made(str(folder), mean=[0.5, 0.5])
    with pytest.raises(InputError, match="std above 0"):
        made(str(folder), std=[0.0])


def test_the_same_pictures_are_known_as_duplicates(folder):
    (folder / "dogs/0.png").write_bytes((folder / "cats/0.png").read_bytes())
    notes = made(str(folder)).notes
    assert "1 of them with another label ('dogs/0.png')" in notes[0]
