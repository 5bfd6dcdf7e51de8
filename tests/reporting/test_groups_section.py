"""The section of groups: what stands out, or that nothing does."""

import pytest

from sourcetrace.schemas import SuspectGroups
from tests.reporting.content import page_content


def group(number, kind="label_pair", name="3 → 8", **other):
    values = {
        "group_id": str(number),
        "kind": kind,
        "name": name,
        "examples": 15,
        "suspects": 12,
        "expected": 1.3,
        "p_value": 1e-6,
        "harm": 91.0,
        "harm_error": 12.0,
        "members": ["a", "b", "c"],
    }
    return values | other


def section(**content):
    page = page_content(**content).render()
    return page.split('<section id="groups"')[1].split("</section>")[0]


def test_a_group_is_a_line_with_what_to_do_and_what_filters_the_list():
    text = section(suspect_groups=SuspectGroups.frame([group(1)])).replace("\u00a0", " ")
    assert "Labelled and predicted 3 → 8</strong>: 12 of 15 examples are suspects" in text
    assert "by chance 1.3. Harm +91 ± 12." in text
    assert 'href="#suspects" data-group="1"' in text
    assert "relabel what breaks it" in text
    assert "<code>a</code>, <code>b</code>, <code>c</code>" in text


def test_every_kind_has_its_words_and_names_are_escaped():
    kinds = ("label_pair", "class", "slice", "stage", "near_duplicates")
    rows = [group(i, kind, f"<b>{kind}") for i, kind in enumerate(kinds)]
    text = section(suspect_groups=SuspectGroups.frame(rows))
    assert "<b>" not in text
    assert all(f"&lt;b&gt;{kind}" in text for kind in kinds)
    rows = [group(i) for i in range(20)]
    assert "12 of 20 groups" in section(suspect_groups=SuspectGroups.frame(rows))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"unstable": 6}, "Nothing stands out: no suspect’s harm has a stable sign."),
        ({}, "No group stands out"),
    ],
)
def test_without_a_group_it_says_why(content, words):
    assert words in section(**content)
