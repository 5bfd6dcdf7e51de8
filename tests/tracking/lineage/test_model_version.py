"""The card in a version's description: readable, its own, and no larger than there is room."""

from hypothesis import given, settings
from hypothesis import strategies as st

from sourcetrace.tracking.lineage.model_version import _replace_card
from sourcetrace.tracking.lineage.record import CLOSING, OPENING
from tests.tracking.records import audit_record

CARD = f"{OPENING}\n### Audit: pass\n\nAudited today.\n{CLOSING}"


def render(status="pass", matches=None, **changes):
    record = audit_record(**changes)
    return record.card(status=status, data_matches=matches, experiment_id="1")


@settings(derandomize=True, deadline=None)
@given(before=st.text(max_size=300), after=st.text(max_size=300), old=st.text(max_size=50))
def test_text_outside_the_markers_is_kept_to_the_letter(before, after, old):
    assert _replace_card(before or None, CARD) == (f"{before}\n\n{CARD}" if before else CARD)
    given_text = f"{before}{OPENING}{old}{CLOSING}{after}"
    assert _replace_card(given_text, CARD) == f"{before}{CARD}{after}"


def test_replacing_again_changes_nothing():
    once = _replace_card("Mine.", CARD)
    assert _replace_card(once, CARD) == once


def test_a_marker_without_its_partner_takes_no_text_with_it():
    opened = f"one {OPENING} two"
    assert _replace_card(opened, CARD) == f"{opened}\n\n{CARD}"
    assert _replace_card(f"{opened}\n\n{CARD} three", CARD) == f"{opened}\n\n{CARD} three"
    assert _replace_card(f"one {CLOSING} two", CARD).startswith(f"one {CLOSING} two\n\n")


def test_a_copied_card_does_not_go_on_claiming():
    copied = f"a {OPENING}pass{CLOSING} b {OPENING}pass{CLOSING} c"
    assert _replace_card(copied, CARD) == f"a {CARD} b  c"


def test_it_says_the_outcome_the_figures_and_where_they_are():
    card = render(status="warn", findings=("warn: class 3 is too harmful",), matches=True)
    assert "### Audit: warn (the gate passed with warnings)" in card
    assert "8 of 100 training examples" in card
    assert "- warn: class 3 is too harmful" in card
    assert "the data that this version was trained on" in card
    assert "not the data" not in card
    assert "(#/experiments/1/runs/r)" in card


def test_labels_and_slices_cannot_end_the_card_or_write_markup():
    card = render(findings=(f"fail: {CLOSING} <b>label</b> [x](http://y)\n# Heading",))
    assert card.count(CLOSING) == 1
    assert "<b>" not in card
    assert "\n# Heading" not in card
    assert " [x](" not in card


def test_a_long_text_of_a_person_gets_the_short_card_or_none():
    card = render()
    assert len(card) < 1500
    short = _replace_card("x" * 4600, card)
    assert short.startswith("x" * 4600)
    assert "Audit: pass" in short
    assert len(short) <= 5000
    assert _replace_card("x" * 4990, card) is None
