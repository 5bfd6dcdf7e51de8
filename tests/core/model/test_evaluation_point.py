"""Which examples a point is about, found by search in what is sorted."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from sourcetrace.core.model.evaluation_point import EvaluationPoint
from sourcetrace.core.model.examples import Block

numbers = st.sets(st.integers(0, 40), max_size=20).map(sorted)


@given(examples=numbers, stage=numbers, start=st.integers(0, 40), length=st.integers(0, 41))
def test_rows_and_stage_are_what_comparing_with_every_number_gives(examples, stage, start, length):
    point = EvaluationPoint("p", ("p",), torch.tensor(examples).long(), torch.tensor(stage).long())
    rows = point.rows(Block(start, start + length))
    assert rows.tolist() == [one for one in examples if start <= one < start + length]
    assert point.in_stage(rows).tolist() == [one in stage for one in rows.tolist()]
