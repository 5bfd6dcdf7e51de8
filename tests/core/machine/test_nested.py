"""Tensors in batches and outputs of any make."""

from collections import OrderedDict, UserDict, namedtuple
from dataclasses import dataclass
from types import MappingProxyType

import pytest
import torch
from torch.nn.utils.rnn import pack_padded_sequence

from sourcetrace.core.machine.nested import map_tensors, to_dtype

Pair = namedtuple("Pair", "left right")


@dataclass(frozen=True)
class Frozen:
    logits: torch.Tensor
    name: str


class Encoding(UserDict):
    """As tokenizers give it."""


def test_every_tensor_is_changed_and_every_container_stays_what_it_was():
    one = torch.ones(1)
    for value in (
        {"a": one, "b": [one, "x"]},
        OrderedDict(a=(one, 3)),
        Pair(one, None),
        Frozen(one, "name"),
        Encoding(a=one),
        [Frozen(one, "inner")],
    ):
        found = map_tensors(value, lambda tensor: tensor + 1)
        assert type(found) is type(value)
        seen = []
        map_tensors(found, seen.append)
        assert seen
        assert all(tensor == 2 for tensor in seen)
    assert one == 1
    assert map_tensors(MappingProxyType({"a": one}), lambda _: 5) == {"a": 5}
    assert map_tensors("text", lambda _: 5) == "text"


def test_whole_numbers_keep_their_type():
    found = to_dtype({"tokens": torch.tensor([1]), "values": torch.ones(1)}, torch.float64)
    assert found["tokens"].dtype == torch.int64
    assert found["values"].dtype == torch.float64


@pytest.mark.parametrize("ordered", [False, True])
def test_a_packed_sequence_keeps_its_sizes(ordered):
    lengths = torch.tensor([3, 2] if ordered else [2, 3])
    packed = pack_padded_sequence(torch.ones(3, 2, 4), lengths, enforce_sorted=ordered)
    moved = to_dtype([packed], torch.float64)[0]
    assert moved.data.dtype == torch.float64
    assert moved.batch_sizes is packed.batch_sizes
    for found, expected in zip(moved[2:], packed[2:], strict=True):
        assert (found is None and expected is None) or torch.equal(found, expected)
