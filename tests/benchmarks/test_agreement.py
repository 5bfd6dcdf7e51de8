import pytest
import torch
from benchmarks.agreement import pearson, relative_error

SCORES = torch.arange(12.0).reshape(3, 4).sin()


def test_correlation_ignores_scale_and_sees_the_sign() -> None:
    assert pearson(3 * SCORES + 1, SCORES) == pytest.approx(1)
    assert pearson(-SCORES, SCORES) == pytest.approx(-1)


def test_relative_error_is_that_of_the_whole() -> None:
    assert relative_error(1.25 * SCORES, SCORES) == pytest.approx(0.25)
    assert relative_error(SCORES, SCORES) == 0


@pytest.mark.parametrize("compare", [pearson, relative_error])
def test_scores_of_other_pairs_are_refused(compare) -> None:
    with pytest.raises(ValueError, match=r"\[3, 4\] and \[4, 3\]"):
        compare(SCORES, SCORES.T)
