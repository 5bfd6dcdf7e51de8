"""The queue loses nothing and doubles nothing, over restarts too."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from sourcetrace.integrations.webhooks.events import RequestedAudit
from sourcetrace.integrations.webhooks.queue import AuditQueue
from sourcetrace.integrations.webhooks.signature import Refused

THIRD, FOURTH = RequestedAudit("churn", "3"), RequestedAudit("churn", "4")
DAY = 86_400


class Clock:
    def __init__(self):
        self.time = 1_000_000.0

    def __call__(self):
        return self.time


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def open_queue(tmp_path, clock):
    """Return a function that opens the same file again, as a restarted process does."""
    return lambda: AuditQueue(tmp_path / "new/queue.sqlite", remember_seconds=600, now=clock)


def test_first_come_first_served_over_a_restart(open_queue):
    open_queue().accept("1", THIRD)
    open_queue().accept("2", FOURTH)
    assert open_queue().take() == THIRD
    queue = open_queue()
    assert queue.counts() == {"waiting": 1, "running": 1}
    queue.end()
    assert queue.take() == FOURTH
    queue.end()
    assert queue.take() is None


def test_a_message_is_taken_once_over_a_restart_until_it_is_old(open_queue, clock):
    open_queue().accept("1", THIRD)
    for later in (0, 0.9 * DAY):
        clock.time += later
        with pytest.raises(Refused, match="delivered before") as refused:
            open_queue().accept("1", FOURTH)
        assert refused.value.status == 409
    assert open_queue().counts()["waiting"] == 1
    clock.time += 0.2 * DAY
    open_queue().accept("1", FOURTH)
    assert open_queue().counts()["waiting"] == 2


def test_a_message_that_asks_for_nothing_is_remembered_too(open_queue):
    open_queue().accept("1", None)
    with pytest.raises(Refused):
        open_queue().accept("1", None)


def test_what_waits_already_waits_once_and_what_runs_may_wait_again(open_queue):
    queue = open_queue()
    queue.accept("1", THIRD)
    queue.accept("2", THIRD)
    assert queue.counts() == {"waiting": 1, "running": 0}
    queue.take()
    queue.accept("3", THIRD)
    assert queue.counts() == {"waiting": 1, "running": 1}
    queue.end()
    assert queue.counts() == {"waiting": 1, "running": 0}


def test_what_a_kill_cut_off_waits_again_first_and_is_given_up_in_the_end(open_queue):
    queue = open_queue()
    queue.accept("1", THIRD)
    queue.accept("2", FOURTH)
    for _ in range(2):
        assert open_queue().take() == THIRD
        assert open_queue().put_back(uncounted=False) is None
    assert open_queue().take() == THIRD
    assert open_queue().put_back(uncounted=False) == THIRD
    assert open_queue().take() == FOURTH


def test_a_wanted_interruption_counts_as_no_attempt(open_queue):
    queue = open_queue()
    queue.accept("1", THIRD)
    for _ in range(5):
        queue.take()
        assert queue.put_back() is None
    assert queue.take() == THIRD
    assert queue.put_back(uncounted=False) is None


@pytest.mark.parametrize("uncounted", [True, False])
def test_what_was_asked_for_again_in_the_meantime_waits_once(open_queue, uncounted):
    queue = open_queue()
    queue.accept("1", THIRD)
    queue.take()
    queue.accept("2", THIRD)
    queue.put_back(uncounted=uncounted)
    assert queue.counts() == {"waiting": 1, "running": 0}


def test_of_one_message_sent_many_times_at_once_one_is_taken(open_queue):
    queue = open_queue()

    def accept(_):
        try:
            queue.accept("1", THIRD)
        except Refused:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(accept, range(24))) == 1
