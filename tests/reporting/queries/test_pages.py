"""The queries on the report: as many as there is room for, and texts as texts."""

import re
from dataclasses import replace

import numpy as np

from sourcetrace.reporting.queries.pages import QuerySection, explanation_page, pictured
from tests.reporting.content import page_content
from tests.reporting.queries.test_view import query_view
from tests.reporting.test_page import Elements, assert_self_contained

EVIL = "</script><script>alert(1)</script><!-- \u202e"


def section(queries=3, **options):
    view = query_view(queries, **options)
    return QuerySection(
        lambda: view.explained(view.worst(queries)),
        queries,
        {"e1": np.zeros((8, 8)), "e2": np.ones((48, 32, 3))},
        {"q0": np.zeros((8, 8))},
    )


def test_queries_stand_on_the_page_the_worst_open_and_readable_without_a_script():
    page = replace(page_content(), queries=section()).render()
    elements = Elements(page)
    details = [one for one in elements.of("details") if one.get("class") == "query"]
    assert ["open" in one for one in details] == [True, False, False]
    said = re.sub(r"\s+", " ", elements.text)
    assert "q0 label 1 the model says 7 margin 0" in said
    assert "without its 2 strongest helpers −0.75" in said
    assert "by segment: 1 (train) 25" in said
    assert "sourcetrace explain QUERY_ID" in said
    assert page == replace(page_content(), queries=section()).render()


def test_what_a_text_holds_is_text_and_a_long_one_is_cut():
    shown = section(text=EVIL + "x" * 10_000, count=1).shown()
    text = Elements("".join(shown)).text
    assert not Elements("".join(shown)).of("script")
    assert "alert(1)" in text
    assert "\u202e" not in text
    assert len(text) < 6000


def test_there_is_room_for_so_many():
    many = section(200, text="good film " * 100, count=5)
    shown = many.shown()
    assert 10 < len(shown) < 200
    assert sum(map(len, shown)) < 300_000
    page = replace(page_content(), queries=many).render()
    assert f"The {len(shown)} worst measured of 200 queries." in page


def test_the_page_needs_nothing_else():
    page = replace(page_content(), queries=section()).render()
    assert_self_contained(page)


class Drawing:
    def picture(self, index):
        return np.full((8, 8, 1), index / 10)

    def query_picture(self, index):
        return np.full((4, 4, 3), index / 10)


def test_an_explanation_has_the_pictures_of_what_it_shows():
    view = query_view()
    found = pictured(
        view.explained(["q1"]), Drawing(), view.train_table, view.query_table.sort("example_id")
    )
    shown = {one.example_id for one in (*found.queries[0].helpers, *found.queries[0].harmers)}
    assert set(found.pictures) == shown
    assert set(found.query_pictures) == {"q1"}
    page = explanation_page(found)
    sides = (found.queries[0].helpers, found.queries[0].harmers)
    assert len(Elements(page).of("img")) == sum(map(len, sides)) + 1
    assert "img-src data:" in page
    assert "Tokens on" not in page
    assert "pictures" not in found.model_dump(mode="json")
    assert not pictured(found, object(), view.train_table, view.query_table).pictures
