"""The table shows the first suspects; a picture comes back from its address."""

import base64
import io

import numpy as np
import polars as pl
import pytest
from PIL import Image

from sourcetrace.reporting.suspects import SuspectTable, picture_uri
from tests.reporting.content import page_content


def decoded(uri):
    head, data = uri.split(",")
    assert head in ("data:image/png;base64", "data:image/jpeg;base64")
    with Image.open(io.BytesIO(base64.b64decode(data))) as image:
        return np.asarray(image)


def table_of(content):
    return SuspectTable.of(content.review_list, pictures=content.pictures, scores_digest="digest")


@pytest.mark.parametrize("shape", [(8, 8), (8, 5, 3), (1, 1), (30, 7)])
def test_small_pictures_keep_every_pixel(shape):
    values = np.random.default_rng(0).random(shape)
    np.testing.assert_array_equal(decoded(picture_uri(values)), np.round(values * 255))


def test_large_pictures_shrink_and_keep_their_proportions():
    uri = picture_uri(np.random.default_rng(0).random((1000, 500, 3), dtype=np.float32))
    assert decoded(uri).shape == (160, 80, 3)
    assert len(uri) < 12_000


def test_values_outside_the_range_are_clipped():
    shown = decoded(picture_uri(np.array([[np.nan, -3.0], [7.0, 0.5]])))
    assert shown.tolist() == [[0, 0], [255, 128]]


@pytest.mark.parametrize("shape", [(3, 8, 8), (8,), (8, 8, 4), (0, 8)])
def test_other_shapes_are_refused(shape):
    with pytest.raises(ValueError, match=r"expected \[H, W\] or \[H, W, 3\]"):
        picture_uri(np.zeros(shape))


def test_long_texts_leave_fewer_rows_and_a_page_that_can_be_mailed():
    content = page_content(2000, suspects=1000, pictured=False)
    assert len(table_of(content).rows) == 300
    columns = {f"text_{number}": pl.lit("word " * 100) for number in range(8)}
    table = SuspectTable.of(
        content.review_list.with_columns(**columns), pictures={}, scores_digest="digest"
    )
    assert 50 < len(table.rows) < 300
    assert table.suspects == 1000
    assert all(len(value) <= 240 for row in table.rows for _, value in row["own"])


def test_a_script_is_given_ids_and_labels_as_they_are():
    table = table_of(page_content(suspects=3, prefix="\u202e=", label="\u202e"))
    assert [row["id"] for row in table.data["rows"]] == [f"\u202e=0000{i}" for i in range(3)]
    assert [label for label, _ in table.data["labels"]] == ["\u202e0", "\u202e1", "\u202e2"]
    assert table.data["labels"][0][1] == "\\u202e0"


def test_the_stage_is_shown_where_there_are_several():
    content = page_content(suspects=4)
    assert "stage" not in dict(table_of(content).rows[0]["own"])
    stages = pl.Series(["one", "two"] * 20)
    table = SuspectTable.of(
        content.review_list.with_columns(stage=stages), pictures={}, scores_digest=""
    )
    assert table.rows[1]["own"] == [("stage", "two")]


def test_a_row_tells_where_its_numbers_disagree():
    review_list = page_content(suspects=2).review_list.with_columns(
        harm=pl.lit(1.0), total_query_loss_influence=pl.Series([0.5, -0.5] * 20)
    )
    table = SuspectTable.of(review_list, pictures={}, scores_digest="")
    assert [row["disagrees"] for row in table.rows] == [True, False]


def test_a_script_is_given_the_groups_to_filter_by():
    content = page_content(suspects=3)
    groups = {"scan-00000": ["g1", "g2"], "scan-00002": ["g1"]}
    table = SuspectTable.of(content.review_list, pictures={}, scores_digest="", groups=groups)
    assert [row["groups"] for row in table.data["rows"]] == [["g1", "g2"], [], ["g1"]]
