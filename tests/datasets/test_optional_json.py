"""A file that may not be there."""

import pytest

from sourcetrace.datasets import OptionalJSONDataset


def test_a_file_is_read_where_it_is_and_an_approved_one_is_never_written(tmp_path):
    assert OptionalJSONDataset(None).load() is None
    assert OptionalJSONDataset(str(tmp_path / "none.json")).load() is None
    (tmp_path / "some.json").write_text('{"a": 1}')
    some = OptionalJSONDataset(str(tmp_path / "some.json"), read_only=True)
    assert some.load() == {"a": 1}
    with pytest.raises(Exception, match="only read"):
        some.save({"a": 2})
    (tmp_path / "some.json").write_text("{")
    with pytest.raises(Exception, match="cannot be read as JSON"):
        some.load()


def test_what_is_saved_is_loaded(tmp_path):
    dataset = OptionalJSONDataset(str(tmp_path / "made" / "some.json"))
    assert not dataset.exists()
    dataset.save({"a": "ü"})
    assert dataset.exists()
    assert dataset.load() == {"a": "ü"}
    with pytest.raises(Exception, match="only read"):
        OptionalJSONDataset(None).save({})
