"""Scores of several training runs: the mean of what each gives alone."""

from dataclasses import replace

import pytest
import torch

from tests.tiny import (
    KeepsEverything,
    KeepsNothing,
    assert_close,
    attribute,
    seeded,
    tiny_case,
)

METHODS = ["source", "fast_source", "influence"]


def runs_of(case, *, others=1):
    """Return the case as run0, and runs with other weights and one checkpoint less."""
    runs = [named(case, "run0")]
    for number in range(1, others + 1):
        with seeded(number):
            states = {
                name: {key: value + 0.2 * torch.randn_like(value) for key, value in state.items()}
                for name, state in case.states.items()
            }
        shorter = replace(case, states=states, records=case.records[1:])
        runs.append(named(shorter, f"run{number}"))
    return runs


def named(case, run):
    """Return the case with its checkpoints in a run's folder."""
    return replace(
        case,
        states={f"{run}/{name}": state for name, state in case.states.items()},
        records=[replace(one, id=f"{run}/{one.id}", run=run) for one in case.records],
    )


def together(runs):
    return replace(
        runs[0],
        states={name: state for run in runs for name, state in run.states.items()},
        records=[record for run in runs for record in run.records],
    )


def totals(outcome):
    return outcome.scores.sum(0), outcome.self_influence.sum(0)


def assert_totals_close(found, expected, tolerance=1e-12):
    for one, other in zip(found, expected, strict=True):
        assert_close(one, other, tolerance=tolerance)


@pytest.mark.parametrize("method", METHODS)
def test_two_runs_give_the_mean_of_both(method):
    runs = runs_of(tiny_case("abbaabab"))
    ensemble = attribute(together(runs), method)
    alone = [totals(attribute(run, method)) for run in runs]
    assert not torch.allclose(alone[0][0], alone[1][0])
    assert_totals_close(totals(ensemble), [(a + b) / 2 for a, b in zip(*alone, strict=True)])
    numbers = [planned.segment.number for planned in ensemble.plan.segments]
    assert numbers == ([2, 4] if method == "influence" else [1, 2, 3, 4])


@pytest.mark.parametrize("method", METHODS)
def test_one_run_in_a_folder_of_its_own_is_the_plain_run_to_the_byte(method):
    case = tiny_case()
    plain, foldered = attribute(case, method), attribute(named(case, "run0"), method)
    assert torch.equal(foldered.scores, plain.scores)
    assert torch.equal(foldered.self_influence, plain.self_influence)


def test_the_order_of_runs_does_not_matter():
    runs = runs_of(tiny_case(), others=2)
    found = totals(attribute(together(runs[::-1])))
    assert_totals_close(found, totals(attribute(together(runs))))


def test_runs_with_equal_file_names_share_no_cached_gradient():
    case = together(runs_of(tiny_case("a" * 8)))
    cache = KeepsEverything()
    kept = attribute(case, cache=cache)
    again = attribute(case, cache=KeepsNothing())
    assert torch.equal(kept.scores, again.scores)
    assert len(cache.kept) == (4 + 3) * 3
