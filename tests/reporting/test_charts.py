"""Charts are well-formed, bounded in size, and absent where there is nothing to draw."""

import re
from dataclasses import replace
from xml.etree import ElementTree

import polars as pl
import pytest

from sourcetrace.reporting import charts
from sourcetrace.reporting.templating import Ink
from sourcetrace.reporting.trust_charts import recall_curve
from tests.reporting.content import ground_truth, page_content, two_runs


def suspect_figures(content, top_share=0.08):
    """Return the charts of the suspects by their names."""
    drawn = charts.suspect_figures(
        content.review_list,
        content.example_signals,
        content.segment_contributions,
        content.checkpoint_manifest,
        top_share=top_share,
    )
    return {figure.name: figure for figure in drawn}


def all_figures(content):
    return [*suspect_figures(content).values(), recall_curve(ground_truth())]


@pytest.fixture(scope="module")
def figures():
    return all_figures(page_content())


def test_every_chart_is_drawn_and_described(figures):
    assert all(figure.caption and figure.description for figure in figures)
    assert len({figure.name for figure in figures}) == 4


def test_svg_is_well_formed_and_refers_to_nothing_outside(figures):
    for figure in figures:
        ElementTree.fromstring(figure.svg)
        outside = re.findall(r'https?://[^"]+', figure.svg)
        assert set(outside) <= {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}
        for target in re.findall(r"url\(#([^)]+)\)", figure.svg):
            assert f'id="{target}"' in figure.svg
            assert target.startswith(figure.name)


def test_every_colour_turns_with_the_theme(figures):
    known = {ink.light for ink in Ink}
    for figure in figures:
        for attribute, colour in re.findall(r'(fill|stroke)="(#[0-9a-f]+)"', figure.svg):
            assert colour in known, (figure.name, attribute)


def test_labels_of_data_are_escaped():
    content = page_content(label="<script>'\"&", prefix="</svg>")
    for figure in all_figures(content):
        assert "<script" not in figure.svg
        assert figure.svg.count("</svg>") == 1
        ElementTree.fromstring(figure.svg)


def test_of_many_examples_some_are_drawn():
    many = page_content(20_000, suspects=1_600)
    figure = suspect_figures(many, top_share=0.05)["loss-and-harm"]
    assert len(figure.svg) < 250_000
    assert "the first 300 of 1,600 suspects" in figure.caption
    assert "Of the examples to keep, one in 62 is drawn" in figure.caption
    assert "lie the 5\u00a0% of examples with the highest loss" in figure.caption


def test_without_labels_or_suspects_the_same_comparisons_are_drawn():
    for content in (page_content(labelled=False, predicted=False), page_content(suspects=0)):
        assert len(all_figures(content)) == 4


@pytest.mark.parametrize("loss", [0.0, 1e-300, 5.0])
def test_equal_losses_and_no_harm_can_be_drawn(loss):
    content = page_content()
    table = content.review_list.with_columns(loss=pl.lit(loss), harm=pl.lit(0.0))
    figure = suspect_figures(replace(content, review_list=table))["loss-and-harm"]
    ElementTree.fromstring(figure.svg)


def test_a_mean_of_checkpoints_lies_between_them():
    content = page_content()
    mean = content.example_signals.filter(checkpoint_id="step_20").with_columns(
        checkpoint_id=pl.lit("step_10+step_20")
    )
    signals = pl.concat([mean, content.example_signals.filter(checkpoint_id="step_30")])
    assert (
        "optimiser step"
        in suspect_figures(replace(content, example_signals=signals))["loss-over-training"].svg
    )
    steps = {"step_10": 10, "step_20": 20, "step_30": 30}
    assert charts._mean_step("step_10+step_20", steps) == 15
    assert charts._mean_step("elsewhere", steps) is None


def test_two_runs_make_one_course_and_name_their_segments():
    drawn = suspect_figures(two_runs())
    assert "at 3 evaluation points" in drawn["loss-over-training"].description
    for name in ("segment · run · steps", "2 · run0 · 30", "3 · run1 · 10–20"):
        assert name in drawn["segment-contributions"].svg


def test_one_evaluation_point_makes_no_claim_about_a_course():
    content = page_content()
    last = content.example_signals.filter(checkpoint_id="step_30")
    figure = suspect_figures(replace(content, example_signals=last))["loss-over-training"]
    assert figure.caption.startswith("One evaluation point only")


def test_more_rankings_than_colours_stay_apart():
    names = [f"ranking {i}" for i in range(9)]
    figure = recall_curve(ground_truth(*names))
    looks = re.findall(
        r'stroke="(#[0-9a-f]+)" stroke-width="2"[^/]*?dasharray="([^"]+)"', figure.svg
    )
    assert len(set(looks)) >= 9


def test_a_drawing_is_the_same_every_time(figures):
    assert all_figures(page_content()) == figures
