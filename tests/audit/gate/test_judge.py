"""What the gate decides: limits, baselines, what is skipped, and that worse is never better."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from tests.audit.gate.examples import approved, verdict

from sourcetrace.audit.gate.baseline import Baseline
from sourcetrace.audit.gate.report import OUTCOMES, GateFailed
from sourcetrace.parameters import GateCheck

NUMBERS = st.floats(-1e6, 1e6)
SEVERITIES = st.sampled_from(["warn", "inconclusive", "fail"])
UPPER = st.one_of(
    st.builds(lambda x: {"at_most": x}, NUMBERS),
    st.builds(lambda x: {"at_most_over_baseline": {"difference": x}}, st.floats(0, 1e3)),
    st.builds(lambda x: {"at_most_over_baseline": {"factor": x}}, st.floats(1, 1e3)),
)
LOWER = st.one_of(
    st.builds(lambda x: {"at_least": x}, NUMBERS),
    st.builds(lambda x: {"at_least_under_baseline": {"difference": x}}, st.floats(0, 1e3)),
    st.builds(lambda x: {"at_least_under_baseline": {"factor": x}}, st.floats(0.01, 1)),
)


def checks_of(limits):
    return st.lists(
        st.builds(
            lambda limit, severity: {"metric": "mean_query_loss", "severity": severity, **limit},
            limits,
            SEVERITIES,
        ),
        min_size=1,
        max_size=5,
    )


def rank(outcome):
    return OUTCOMES.index(outcome)


@given(checks_of(UPPER), NUMBERS, NUMBERS, st.none() | NUMBERS)
def test_a_larger_value_never_improves_the_outcome_under_upper_limits(checks, one, two, base):
    baseline = None if base is None else approved(mean_query_loss=base)
    better, worse = (
        verdict(*checks, baseline=baseline, mean_query_loss=value).outcome
        for value in sorted((one, two))
    )
    assert rank(better) <= rank(worse)


@given(checks_of(LOWER), NUMBERS, NUMBERS, st.none() | NUMBERS)
def test_a_smaller_value_never_improves_the_outcome_over_lower_limits(checks, one, two, base):
    baseline = None if base is None else approved(mean_query_loss=base)
    worse, better = (
        verdict(*checks, baseline=baseline, mean_query_loss=value).outcome
        for value in sorted((one, two))
    )
    assert rank(better) <= rank(worse)


@given(checks_of(UPPER), checks_of(UPPER), NUMBERS)
def test_one_more_check_that_can_be_held_never_improves_the_outcome(checks, more, value):
    baseline = approved(mean_query_loss=0.0)
    fewer = verdict(*checks, baseline=baseline, mean_query_loss=value).outcome
    all_of_them = verdict(*checks, *more, baseline=baseline, mean_query_loss=value).outcome
    assert rank(fewer) <= rank(all_of_them)


@given(st.one_of(UPPER, LOWER).filter(lambda limit: "baseline" in next(iter(limit))), NUMBERS)
def test_the_baseline_itself_passes_every_check_against_it(limit, value):
    check = {"metric": "mean_query_loss", **limit}
    report = verdict(check, baseline=approved(mean_query_loss=value), mean_query_loss=value)
    assert report.outcome == "pass"


@given(checks_of(st.one_of(UPPER, LOWER)), st.sampled_from([math.nan, math.inf, -math.inf]))
def test_what_is_no_number_never_passes_and_leaves_a_valid_report(checks, value):
    report = verdict(*checks, baseline=approved(mean_query_loss=1.0), mean_query_loss=value)
    assert report.outcome == max((check["severity"] for check in checks), key=OUTCOMES.index)
    assert {check.value for check in report.checks} == {None}
    assert "NaN" not in report.model_dump_json()


@pytest.mark.parametrize(
    ("value", "outcome"), [(0.05, "pass"), (0.0500001, "warn"), (0.1, "warn"), (0.11, "fail")]
)
def test_two_limits_of_a_metric_warn_first_and_fail_later(value, outcome):
    report = verdict(
        {"metric": "harmful_share", "at_most": 0.05, "severity": "warn"},
        {"metric": "harmful_share", "at_most": 0.1, "severity": "fail"},
        harmful_share=value,
    )
    assert report.outcome == outcome


def test_numbers_that_differ_are_told_apart():
    report = verdict({"metric": "harmful_share", "at_most": 0.05}, harmful_share=0.0500001)
    assert report.checks[0].message == "harmful_share is 0.0500001; at most 0.05 is allowed."


def test_fail_beats_inconclusive_beats_warn():
    warns = {"metric": "harmful_share", "at_most": 0.0, "severity": "warn"}
    doubts = {"metric": "trust_lds_low", "at_least": 0.2, "severity": "inconclusive"}
    fails = {"metric": "mean_query_loss", "at_most": 0.0, "severity": "fail"}
    values = {"harmful_share": 1.0, "trust_lds_low": 0.1, "mean_query_loss": 1.0}
    assert verdict(warns, **values).outcome == "warn"
    assert verdict(doubts, warns, **values).outcome == "inconclusive"
    assert verdict(warns, fails, doubts, **values).outcome == "fail"


def test_scores_that_must_be_verified_and_are_not_are_inconclusive():
    fine = {"metric": "harmful_share", "at_most": 1.0}
    values = {"harmful_share": 0.5, "trust_verified": 0.0}
    assert verdict(fine, **values).outcome == "pass"
    report = verdict(fine, required=True, **values)
    assert report.outcome == "inconclusive"
    assert "verification" in report.checks[0].advice
    assert verdict(fine, required=True, **values | {"trust_verified": 1.0}).outcome == "pass"


@pytest.mark.parametrize(
    ("baseline", "reason"),
    [
        (Baseline(), "no baseline is set (gate.baseline)"),
        (approved(other=1.0), "no baseline: approved.json has no harmful_share"),
    ],
)
def test_a_check_without_a_baseline_says_so_and_is_skipped(baseline, reason):
    report = verdict(
        {"metric": "harmful_share", "at_most_over_baseline": {"difference": 0.1}},
        {"metric": "harmful_share", "at_most": 1.0},
        baseline=baseline,
        harmful_share=0.5,
    )
    skipped, held = report.checks
    assert (skipped.status, skipped.reason, held.status) == ("skipped", reason, "pass")
    assert reason in skipped.message
    assert report.summary == "2 checks: 1 passed, 1 skipped."
    assert report.outcome == "pass"


def test_checks_of_which_none_could_be_held_pass_nothing():
    check = {"metric": "trust_lds", "at_least": 0.0, "severity": "inconclusive"}
    assert verdict(check, trust_lds=None).outcome == "inconclusive"
    assert verdict(check).checks[0].reason == "the audit did not measure it"


def test_without_checks_the_report_says_that_nothing_was_judged():
    report = verdict(harmful_share=1.0)
    assert report.outcome == "pass"
    assert "nothing was judged" in report.summary


@pytest.mark.parametrize(("value", "limit"), [(2.0, 2.5), (-2.0, -1.5), (0.0, 0.0)])
def test_a_factor_allows_more_of_a_negative_baseline_too(value, limit):
    report = verdict(
        {"metric": "mean_query_loss", "at_most_over_baseline": {"factor": 1.25}},
        baseline=approved(mean_query_loss=value),
        mean_query_loss=value,
    )
    assert report.checks[0].limit == limit


@pytest.mark.parametrize(
    ("check", "message"),
    [
        ({"metric": "harmful_share"}, "give exactly one of at_most"),
        ({"metric": "harmful_share", "at_most": 1, "at_least": 0}, "got at_most, at_least"),
        ({"metric": "harm", "at_most": 1}, "harmful_share"),
        (
            {"metric": "harmful_share", "at_most_over_baseline": {}},
            "either difference or factor",
        ),
        (
            {"metric": "harmful_share", "at_most_over_baseline": {"factor": 0.5}},
            "refuse the baseline itself; expected at least 1",
        ),
        (
            {"metric": "harmful_share", "at_least_under_baseline": {"factor": 1.5}},
            "expected at most 1",
        ),
        ({"metric": "trust_lds", "at_least": 0.1, "severity": "warn"}, "never only a warning"),
        ({"metric": "harmful_share", "at_most": math.nan}, "finite"),
    ],
)
def test_checks_that_make_no_sense_are_refused(check, message):
    with pytest.raises(ValidationError, match=message):
        GateCheck(**check)


def test_a_baseline_is_an_earlier_verdict_or_any_file_of_metrics():
    earlier = verdict(harmful_share=0.25, trust_lds=None).model_dump(mode="json")
    assert Baseline.parse(earlier, path="p") == Baseline("p", {"harmful_share": 0.25})


@pytest.mark.parametrize(
    "content",
    [[], "text", {}, {"metrics": 1}, {"metrics": {"a": "1"}}, {"metrics": {"a": True}}],
)
def test_a_file_that_is_no_baseline_is_refused(content):
    from sourcetrace.errors import InputError

    with pytest.raises(InputError, match=r"Copy the gate\.json of an audit"):
        Baseline.parse(content, path="p")


def test_the_failure_names_every_failed_check_with_value_limit_and_advice():
    import pickle

    report = verdict(
        {"metric": "harmful_share", "at_most": 0.1},
        {"metric": "mean_query_loss", "at_most": 0.2},
        {"metric": "class_concentration", "at_most": 1, "severity": "warn"},
        harmful_share=0.3,
        mean_query_loss=0.4,
        class_concentration=9.0,
    )
    failure = pickle.loads(pickle.dumps(GateFailed(report)))
    assert failure.report == report
    text = str(failure)
    for check in report.checks[:2]:
        assert check.message in text
        assert check.advice in text
    assert "harmful_share is 0.3; at most 0.1 is allowed" in text
    assert "class_concentration" not in text
