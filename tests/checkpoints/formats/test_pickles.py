"""Small files that unfold to what ends the process, or fills its memory, are refused unread."""

import io
import pickle
import struct
import zipfile

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sourcetrace.checkpoints.formats.distributed_files import METADATA, distributed_content
from sourcetrace.checkpoints.formats.pickles import refuse_unfolded, refuse_unfolding
from sourcetrace.checkpoints.formats.tensor_bytes import load_torch
from sourcetrace.errors import InputError

DEEP_KEY = b"\x80\x02}" + b")" + b"\x85" * 1_000_000 + b"Ns."
# A tuple of the last one twice, forty times: to hash it takes all day.
SHARED_KEY = b"\x80\x02}" + b")\x85q\x00" + b"h\x00h\x00\x86q\x00" * 40 + b"Ns."


def saved(content, *, data=None, compression=zipfile.ZIP_STORED, **options):
    file = io.BytesIO()
    torch.save(content, file, **options)
    if data is None and compression == zipfile.ZIP_STORED:
        return file.getvalue()
    archive, packed = zipfile.ZipFile(file), io.BytesIO()
    with zipfile.ZipFile(packed, "w", compression) as target:
        for one in archive.infolist():
            is_pickle = data is not None and one.filename.endswith("data.pkl")
            target.writestr(one.filename, data if is_pickle else archive.read(one))
    return packed.getvalue()


def shared(levels):
    value = ["a"]
    for _ in range(levels):
        value = [value, value]
    return value


@pytest.mark.parametrize("data", [DEEP_KEY, SHARED_KEY])
def test_a_key_without_end_is_refused_before_it_is_hashed(data):
    with pytest.raises(InputError, match="more than 100 deep"):
        load_torch("a.pt", saved({}, data=data))
    with pytest.raises(InputError, match=r"a/\.metadata unfolds"):
        distributed_content("a", {METADATA: data})


@pytest.mark.parametrize("legacy", [False, True])
def test_shared_lists_and_a_state_that_holds_itself_are_refused(legacy):
    own = {"step": 1}
    own["app"] = own
    late = [[] for _ in range(200)]
    for outer, inner in zip(late[1:], late, strict=False):
        outer.append(inner)
    for value in (shared(40), own, late[-1]):
        with pytest.raises(InputError, match="unfolds to values"):
            load_torch("a.pt", saved(value, _use_new_zipfile_serialization=not legacy))


def test_a_list_that_is_filled_after_it_was_put_into_others_is_counted():
    levels = 40  # each list twice into the next one, the innermost filled last
    data = b"\x80\x02" + b"".join(b"]q" + bytes([n]) for n in range(levels + 1))
    for n in range(levels, 0, -1):
        inner = b"h" + bytes([n - 1])
        data += b"h" + bytes([n]) + b"(" + inner + inner + b"e"
    data += b"h" + bytes([levels]) + b"."
    with pytest.raises(InputError, match="unfolds"):
        load_torch("a.pt", saved({}, data=data))


@pytest.mark.parametrize("legacy", [False, True])
def test_a_tensor_that_is_expanded_beyond_what_was_saved_is_refused(legacy):
    wide = saved({"a": torch.zeros(1).expand(10**9)}, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(InputError, match=r"repeat a few numbers up to 4.GB"):
        load_torch("a.pt", wide)
    few = torch.zeros(1, 3).expand(5, 3)
    assert torch.equal(load_torch("a.pt", saved({"a": few}))["a"], few)


def test_a_compressed_archive_is_refused_by_its_members_names():
    bomb = saved({"a": torch.zeros(1000)}, compression=zipfile.ZIP_DEFLATED)
    with pytest.raises(InputError, match=r"is compressed \(archive/data\.pkl"):
        load_torch("a.pt", bomb)


def test_what_a_refused_description_says_is_not_repeated():
    def text(value):
        return b"X" + struct.pack("<I", len(value)) + value

    record = b"ctorch.distributed.checkpoint.metadata\nMetadata\n)\x81"
    entries = text(b"x" * 10**6) + b"N"
    fields = text(b"storage_data") + b"}" + text(b"state_dict_metadata") + b"}(" + entries + b"u"
    data = b"\x80\x02" + record + b"}(" + fields + b"ub."
    with pytest.raises(InputError) as caught:
        distributed_content("a", {METADATA: data})
    assert len(str(caught.value)) < 1000


_PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inside: (
        st.lists(inside) | st.tuples(inside, inside) | st.dictionaries(st.text(), inside)
    ),
)


@given(_PLAIN, st.sampled_from([2, 3, 4, 5]))
def test_what_is_in_one_place_is_read(content, protocol):
    data = pickle.dumps(content, protocol)
    refuse_unfolding("a", data, len(data))
    refuse_unfolded("a", content, len(data))
