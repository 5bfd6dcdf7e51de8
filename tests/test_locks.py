"""A file that several processes change is changed as a whole, or not at all."""

import json
from contextlib import suppress

from sourcetrace.locks import shared_json


def test_what_is_changed_is_kept(tmp_path):
    file = tmp_path / "new" / "notes.json"
    with shared_json(file) as notes:
        notes["one"] = [1]
    with shared_json(file) as notes:
        notes["one"].append(2)
    assert json.loads(file.read_text()) == {"one": [1, 2]}


def test_what_raises_changes_nothing_and_lets_others_in(tmp_path):
    file = tmp_path / "notes.json"
    with suppress(ValueError), shared_json(file) as notes:
        notes["one"] = 1
        raise ValueError
    with shared_json(file) as notes:
        assert notes == {}
    assert not file.exists()
