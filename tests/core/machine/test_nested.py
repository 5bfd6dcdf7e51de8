"""Tensors in batches and outputs of any make."""

from collections import OrderedDict, UserDict, namedtuple
from dataclasses import dataclass
from types import MappingProxyType

import torch

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
