"""Tables show the first rows and say where the others are."""

import polars as pl

from sourcetrace.formats import format_number
from sourcetrace.reporting.tables import Table
from tests.reporting.content import ground_truth, page_content, two_runs


def test_segments_add_up_and_one_without_scores_says_so():
    content = page_content()
    suspects = content.review_list.head(6)["example_id"]
    table = Table.of_segments(content.checkpoint_manifest, content.segment_contributions, suspects)
    assert [row[5] for row in table.rows] == ["33.3\u00a0%", "66.7\u00a0%"]
    assert [row[4] for row in table.rows] == ["20", "10"]
    expected = content.review_list.head(6)["harm"].mean() / 2
    assert table.rows[0][6] == format_number(expected, signed=True)
    last = content.segment_contributions.filter(pl.col("segment") == 2)
    table = Table.of_segments(content.checkpoint_manifest, last, suspects)
    assert table.rows[0][5] == "—"
    assert "takes nothing from this segment" in table.note


def test_many_checkpoints_and_parameters_are_cut():
    manifest = page_content().checkpoint_manifest.head(1)
    many = pl.concat(
        manifest.with_columns(checkpoint_id=pl.lit(f"c{i}"), step=pl.lit(i)) for i in range(90)
    )
    table = Table.of_checkpoints(many)
    assert len(table.rows) == 60
    assert table.rows[-1][0] == "c89"
    assert "last 60 of 90 checkpoints" in table.note
    parameters = pl.DataFrame(
        {"parameter": [f"p{i:03d}" for i in range(130)], "size": [4] * 130, "reason": ["-"] * 130}
    )
    table = Table.of_parameters(parameters)
    assert len(table.rows) == 100
    assert "30 more have 120 values together" in table.note


def test_ranking_table_counts_planted_errors():
    table = Table.of_rankings(ground_truth())
    assert table.columns[1][0] == "Found in the first 10"
    assert table.rows[0] == ["review list", "8 of 10", "80\u00a0%", "0.9"]


def test_checkpoints_show_how_they_were_trained():
    manifest = page_content().checkpoint_manifest.with_columns(
        optimizer=pl.lit("AdamW"), learning_rate_source=pl.lit("interpolated")
    )
    table = Table.of_checkpoints(manifest)
    shown = dict(zip((title for title, _ in table.columns), table.rows[0], strict=True))
    assert shown["Optimiser"] == "AdamW"
    assert shown["Parameter groups"] == "1"
    assert shown["Rates are"] == "interpolated"
    assert table.note == ""
    group = pl.col("parameter_groups")
    several = manifest.with_columns(group.list.concat(group))
    assert "those of the first parameter group" in Table.of_checkpoints(several).note
    source = pl.lit([{"value": "step_mass", "source": "assumed: constant"}])
    assert "Assumed" in (note := Table.of_checkpoints(manifest.with_columns(sources=source)).note)
    assert note.endswith("says it: constant.")


def test_two_runs_are_listed_one_after_the_other():
    content = two_runs()
    manifest = content.checkpoint_manifest
    shuffled = manifest.sample(fraction=1, shuffle=True, seed=1)
    table = Table.of_checkpoints(shuffled)
    assert [row[0] for row in table.rows] == manifest["checkpoint_id"].to_list()
    suspects = content.review_list.head(6)["example_id"]
    table = Table.of_segments(shuffled, content.segment_contributions, suspects)
    assert table.columns[1][0] == "Run · stage"
    assert [row[:4] for row in table.rows] == [
        ["1", "run0 · train", "2", "10–20"],
        ["2", "run0 · train", "1", "30"],
        ["3", "run1 · train", "2", "10–20"],
        ["4", "run1 · train", "1", "30"],
    ]
