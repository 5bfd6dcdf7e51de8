"""Learning rates out of a metric's history."""

import polars as pl
import pytest

from sourcetrace.checkpoints.training.learning_rates import read_learning_rates
from sourcetrace.errors import InputError
from sourcetrace.tracking.places.logged_rates import fetch_rates

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture
def rates(client, start_run, tmp_path):
    """A function that logs a history of (step, rate), and returns the table that comes of it."""

    def table(*history, name="optim/lr"):
        run = start_run()
        for time, (step, rate) in enumerate(history, 1):
            client.log_metric(run, name, rate, timestamp=time, step=step)
        fetch_rates(f"runs:/{run}/metrics/{name}", tmp_path / "cache" / "lr")
        *known, (end, unknown) = pl.read_csv(tmp_path / "cache" / "lr").rows()
        assert (end, unknown) == (known[-1][0] + 1, None)
        read = read_learning_rates(tmp_path / "cache" / "lr", last_step=100)
        assert read.rates.squeeze(1).tolist() == [rate for _, rate in known]
        return known

    return table


def test_a_rate_for_every_step_is_a_table(rates):
    assert rates((1, 0.1), (2, 1 / 3), (3, 1e-9)) == [(1, 0.1), (2, 1 / 3), (3, 1e-9)]


def test_a_history_from_step_0_counts_the_steps_before(rates):
    assert rates((0, 0.1), (1, 0.2)) == [(1, 0.1), (2, 0.2)]


def test_of_a_step_that_was_logged_again_the_later_rate_counts(rates):
    history = [(1, 0.1), (2, 0.2), (3, 0.3), (2, 0.5), (3, 0.6)]
    assert rates(*history) == [(1, 0.1), (2, 0.5), (3, 0.6)]


@pytest.mark.parametrize("history", [[], [(1, 0.1), (3, 0.1)], [(0, 0.1), (50, 0.2)], [(10, 0.1)]])
def test_a_history_that_leaves_steps_out_is_refused(rates, history):
    with pytest.raises(InputError, match="expected one for every step from the first"):
        rates(*history)


def test_what_is_no_metric_is_refused(client, tmp_path):
    with pytest.raises(InputError, match="names no metric of a run"):
        fetch_rates("runs:/abc/params/lr", tmp_path / "lr")
    with pytest.raises(InputError, match="Run with id=abc not found"):
        fetch_rates("runs:/abc/metrics/lr", tmp_path / "lr")
