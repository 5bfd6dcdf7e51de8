"""A spectrum in a few numbers."""

import pytest
import torch

from sourcetrace.core.statistics import spectrum
from sourcetrace.core.statistics.spectrum import LEVELS, spectrum_quantiles


def test_quantiles_are_the_nearest_values_below_and_the_largest_is_exact():
    values = torch.randperm(1001, generator=torch.Generator().manual_seed(0)).reshape(7, 143)
    assert spectrum_quantiles(values.float()) == [float(int(level * 1000)) for level in LEVELS]


def test_one_eigenvalue_is_every_quantile():
    assert spectrum_quantiles(torch.tensor([[2.0]])) == [2.0] * len(LEVELS)


def test_many_eigenvalues_are_thinned_evenly(monkeypatch):
    values = torch.arange(100_000.0)
    whole = spectrum_quantiles(values)
    monkeypatch.setattr(spectrum, "_SORTED_AT_MOST", 1000)
    thinned = spectrum_quantiles(values)
    assert thinned[-1] == 99_999
    assert thinned == pytest.approx(whole, abs=100)
