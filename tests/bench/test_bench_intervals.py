"""Percentiles and their intervals."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from narrows.bench.intervals import PERCENTILES, describe, percentile, rate_interval, ratio_interval

NUMBERS = st.lists(st.floats(0, 1e6), min_size=1, max_size=60)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(NUMBERS, st.floats(0, 100))
def test_a_percentile_is_numpys(numbers, percent) -> None:
    expected = float(np.percentile(numbers, percent))
    assert percentile(sorted(numbers), percent) == pytest.approx(expected, rel=1e-9, abs=1e-9)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.lists(NUMBERS, min_size=1, max_size=12))
def test_a_distribution_holds_its_numbers(groups) -> None:
    found = describe(groups)
    everything = [number for group in groups for number in group]
    assert found is not None
    assert found.count == len(everything)
    assert (found.low, found.high) == (min(everything), max(everything))
    assert found.mean.value == pytest.approx(np.mean(everything), rel=1e-9, abs=1e-9)
    values = [found.percentiles[percent].value for percent in PERCENTILES]
    assert values == sorted(values)
    assert values == pytest.approx(list(np.percentile(everything, PERCENTILES)), rel=1e-9, abs=1e-9)
    for estimate in found.percentiles.values():
        assert found.low - 1e-9 <= estimate.low <= estimate.high <= found.high + 1e-9
    assert describe(groups) == found, "the same data gives the same interval"


def test_no_numbers_have_no_distribution() -> None:
    assert describe([]) is None
    assert describe([(), ()]) is None


def test_equal_numbers_have_an_interval_of_no_width() -> None:
    found = describe([(2.0,)] * 50)
    assert found is not None
    assert (found.percentiles[50].low, found.percentiles[50].high) == (2.0, 2.0)


def test_a_percentile_with_nobody_beyond_it_is_marked() -> None:
    for count, thin in ((1, {50, 90, 95, 99}), (9, {90, 95, 99}), (20, {99}), (99, {99}), (100, set())):
        found = describe([(float(i),) for i in range(count)])
        assert found is not None
        assert {percent for percent, one in found.percentiles.items() if one.is_thin} == thin


def test_the_interval_of_the_median_holds_the_truth_about_as_often_as_it_says() -> None:
    random = np.random.default_rng(5)
    held = 0
    for seed in range(200):
        found = describe([(float(x),) for x in random.exponential(1.0, 80)], seed=seed)
        assert found is not None
        held += found.percentiles[50].low <= np.log(2) <= found.percentiles[50].high
    assert 0.86 <= held / 200 <= 0.995


def test_requests_are_drawn_whole() -> None:
    """A thousand gaps of two requests are two draws, not a thousand: the interval must stay wide."""
    order = np.random.default_rng(0).permutation([1.0] * 500 + [3.0] * 500)
    whole = describe([(1.0,) * 500, (3.0,) * 500])
    single = describe([(float(x),) for x in order])
    assert whole is not None
    assert single is not None
    assert whole.mean.high - whole.mean.low > 5 * (single.mean.high - single.mean.low)


def test_neighbours_that_resemble_each_other_widen_the_interval() -> None:
    random = np.random.default_rng(1)
    mixed = random.normal(0, 1, 400)
    waves = np.sort(mixed[:200]).tolist() + np.sort(mixed[200:]).tolist()
    correlated, independent = describe([(x,) for x in waves]), describe([(float(x),) for x in mixed])
    assert correlated is not None
    assert independent is not None
    width = correlated.mean.high - correlated.mean.low
    assert width > 1.5 * (independent.mean.high - independent.mean.low)


def test_a_ratio_of_a_thing_to_itself_holds_one_and_of_twice_it_does_not() -> None:
    groups = [(float(x),) for x in np.random.default_rng(2).exponential(1.0, 200)]
    twice = [(2 * group[0],) for group in groups]
    same = ratio_interval(groups, groups, 50)
    other = ratio_interval(groups, twice, 50)
    assert same is not None
    assert other is not None
    assert same.value == 1.0
    assert same.low < 1 < same.high
    assert other.value == pytest.approx(2.0)
    assert other.low > 1
    assert ratio_interval([], groups, None) is None
    assert ratio_interval([(0.0,)], groups, 50) is None


def test_a_rate_is_its_count_over_its_time() -> None:
    found = rate_interval([4.0] * 10, 0.5)
    assert (found.value, found.low, found.high) == (8.0, 8.0, 8.0)
