"""A table of audits by their number of examples."""

from benchmarks.audit_growth import STAGES, Audit, GrowingTask, _exponents
from benchmarks.measurement import Cost, Measurement


def _audit(examples: int) -> Audit:
    costs = {name: Cost(2.0, examples / 1000, 10**8) for name in STAGES}
    return Audit(Measurement(costs, {}), [(7.0, 5 * 10**8), (3.0, 2 * 10**8)], 1.25)


def test_a_row_has_stages_and_processes() -> None:
    row = _audit(4000).row(4000, 2)
    assert row.startswith("| 4,000 | 2 | 2.0 (4.0) | 2.0 (4.0) | 2.0 (4.0) | 6.0 (12.0) |")
    assert row.endswith("| 7 s, 500 MB; 3 s, 200 MB | 1.2 |")


def test_what_grows_in_step_with_examples_has_exponent_one() -> None:
    found = {(count, 1): [_audit(count)] for count in (10, 100)}
    said = _exponents(found, [10, 100], 1)
    assert said.count("1.00") == 3
    assert said.endswith("peak memory 0.00")


def test_parameters_make_the_task() -> None:
    task = GrowingTask([4, 8, 4, 10], examples=1500, queries=3)
    assert (len(task.train_examples()), len(task.query_examples())) == (1500, 3)
