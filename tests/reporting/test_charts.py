"""Charts are well-formed, bounded in size, and absent where there is nothing to draw."""

import re
from xml.etree import ElementTree

import polars as pl
import pytest

from sourcetrace.reporting import charts, palette, ranking_chart, training_charts
from tests.reporting.content import ground_truth, page_content, two_runs


def all_figures(content):
    return [
        charts.loss_and_harm(content.review_list, top_share=0.08),
        charts.suspects_per_label(content.review_list),
        charts.given_and_predicted(content.review_list),
        training_charts.segment_contributions(
            content.segment_contributions,
            content.review_list,
            content.checkpoint_manifest,
        ),
        training_charts.loss_over_training(
            content.example_signals, content.review_list, content.checkpoint_manifest
        ),
        ranking_chart.recall_curve(ground_truth()),
    ]


@pytest.fixture(scope="module")
def figures():
    return all_figures(page_content())


def test_every_chart_is_drawn_and_described(figures):
    assert all(figure is not None for figure in figures)
    assert all(figure.caption and figure.description for figure in figures)
    assert len({figure.name for figure in figures}) == len(figures)


def test_svg_is_well_formed_and_refers_to_nothing_outside(figures):
    for figure in figures:
        ElementTree.fromstring(figure.svg)
        outside = re.findall(r'https?://[^"]+', figure.svg)
        assert set(outside) <= {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}
        for target in re.findall(r"url\(#([^)]+)\)", figure.svg):
            assert f'id="{target}"' in figure.svg
            assert target.startswith(figure.name)


def test_every_colour_turns_with_the_theme(figures):
    known = palette.Ink.dark_chart_rules()
    for figure in figures:
        for attribute, colour in re.findall(r'(fill|stroke)="(#[0-9a-f]+)"', figure.svg):
            assert f'[{attribute}="{colour}"]' in known, (figure.name, colour)


def test_labels_of_data_are_escaped():
    content = page_content(label="<script>'\"&", prefix="</svg>")
    for figure in all_figures(content):
        assert "<script" not in figure.svg
        assert figure.svg.count("</svg>") == 1
        ElementTree.fromstring(figure.svg)


def test_many_examples_are_counted_in_bins():
    figure = charts.loss_and_harm(page_content(20_000, suspects=1_600).review_list, top_share=0.05)
    assert len(figure.svg) < 250_000
    assert "the first 300 of 1,600 suspects" in figure.caption
    assert "lie the 5\u00a0% of examples with the highest loss" in figure.caption


def test_many_labels_are_cut_and_the_caption_says_so():
    table = page_content(200, suspects=200).review_list.with_columns(
        given_label=pl.format("class-{}", pl.col("rank") % 40),
        predicted_label=pl.format("class-{}", pl.col("rank") % 7),
    )
    assert "15 labels with most suspects of 40" in charts.suspects_per_label(table).caption
    assert "of 200 suspects" in charts.given_and_predicted(table).caption


def test_without_labels_the_charts_of_labels_are_left_out():
    table = page_content(labelled=False, predicted=False).review_list
    assert charts.suspects_per_label(table) is None
    assert charts.given_and_predicted(table) is None


def test_without_suspects_only_the_comparisons_are_drawn():
    drawn = [figure is not None for figure in all_figures(page_content(suspects=0))]
    assert drawn == [True, False, False, True, True, True]


@pytest.mark.parametrize("loss", [0.0, 1e-300, 5.0])
def test_equal_losses_and_no_harm_can_be_drawn(loss):
    table = page_content().review_list.with_columns(loss=pl.lit(loss), harm=pl.lit(0.0))
    ElementTree.fromstring(charts.loss_and_harm(table, top_share=0.08).svg)


def test_a_mean_of_checkpoints_lies_between_them():
    content = page_content()
    mean = content.example_signals.filter(checkpoint_id="step_20").with_columns(
        checkpoint_id=pl.lit("step_10+step_20")
    )
    signals = pl.concat([mean, content.example_signals.filter(checkpoint_id="step_30")])
    figure = training_charts.loss_over_training(
        signals, content.review_list, content.checkpoint_manifest
    )
    assert "optimiser step" in figure.svg
    steps = {"step_10": 10, "step_20": 20, "step_30": 30}
    assert training_charts._mean_step("step_10+step_20", steps) == 15
    assert training_charts._mean_step("elsewhere", steps) is None


def test_two_runs_make_one_course_and_name_their_segments():
    content = two_runs()
    signals, manifest = content.example_signals, content.checkpoint_manifest
    figure = training_charts.loss_over_training(signals, content.review_list, manifest)
    assert "at 3 evaluation points" in figure.description
    figure = training_charts.segment_contributions(
        content.segment_contributions, content.review_list, manifest
    )
    for name in ("segment · run · steps", "2 · run0 · 30", "3 · run1 · 10–20"):
        assert name in figure.svg


def test_one_evaluation_point_makes_no_claim_about_a_course():
    content = page_content()
    figure = training_charts.loss_over_training(
        content.example_signals.filter(checkpoint_id="step_30"),
        content.review_list,
        content.checkpoint_manifest,
    )
    assert figure.caption.startswith("One evaluation point only")


def test_labels_that_are_numbers_sort_as_numbers():
    assert charts._natural_order(["10", "b", "2", "a"]) == ["2", "10", "a", "b"]


@pytest.mark.parametrize(
    ("top", "ticks"), [(1.0, [0, 0.2, 0.4, 0.6, 0.8, 1.0]), (0.113, [0, 0.05, 0.1])]
)
def test_ticks_are_round(top, ticks):
    assert charts._round_ticks(top) == ticks


def test_more_rankings_than_colours_stay_apart():
    names = [f"ranking {i}" for i in range(9)]
    figure = ranking_chart.recall_curve(ground_truth(*names))
    looks = re.findall(
        r'stroke="(#[0-9a-f]+)" stroke-width="2"[^/]*?dasharray="([^"]+)"', figure.svg
    )
    assert len(set(looks)) >= 9


def test_a_drawing_is_the_same_every_time(figures):
    assert all_figures(page_content()) == figures
