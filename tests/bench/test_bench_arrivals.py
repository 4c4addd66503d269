"""Intended send times: reproducible, ascending, at the asked rate."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from narrows.bench.arrivals import SHAPES, arrival_times, sweep_rates
from narrows.errors import InvalidConfig


@settings(max_examples=200, deadline=None, derandomize=True)
@given(
    st.sampled_from(SHAPES),
    st.floats(0.01, 1000),
    st.integers(1, 300),
    st.one_of(st.none(), st.floats(0.1, 100)),
    st.integers(0, 10_000),
)
def test_times_ascend_within_both_limits_and_are_reproducible(shape, rate, count, duration_s, seed) -> None:
    def draw() -> list[float]:
        return arrival_times(shape, rate, num_requests=count, duration_s=duration_s, seed=seed)

    try:
        times = draw()
    except InvalidConfig:
        assert duration_s is not None, "a number alone always gives that many"
        with pytest.raises(InvalidConfig, match="none falls into"):
            draw()
        return
    assert times == sorted(times)
    assert 1 <= len(times) <= count
    assert times[0] >= 0
    assert duration_s is None or times[-1] < duration_s
    assert times == draw()


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.floats(0.1, 100), st.integers(1, 50), st.integers(2, 200))
def test_constant_and_bursts_have_exact_gaps(rate, burst_size, count) -> None:
    constant = arrival_times("constant", rate, num_requests=count, duration_s=None, seed=0)
    assert constant == pytest.approx([i / rate for i in range(count)])
    bursts = arrival_times("burst", rate, num_requests=count, duration_s=None, seed=0, burst_size=burst_size)
    assert bursts == pytest.approx([i // burst_size * burst_size / rate for i in range(count)])


def test_poisson_gaps_have_the_mean_and_spread_of_an_exponential() -> None:
    times = arrival_times("poisson", 4.0, num_requests=20_000, duration_s=None, seed=3)
    gaps = [later - earlier for earlier, later in zip([0.0, *times], times, strict=False)]
    mean = sum(gaps) / len(gaps)
    deviation = math.sqrt(sum((gap - mean) ** 2 for gap in gaps) / len(gaps))
    # Four standard errors of the mean of 20,000 gaps; the seed is fixed.
    assert abs(mean - 0.25) < 4 * 0.25 / math.sqrt(len(gaps))
    assert deviation == pytest.approx(0.25, rel=0.05)
    assert sum(gap > 0.25 for gap in gaps) / len(gaps) == pytest.approx(math.exp(-1), abs=0.02)


def test_by_duration_the_number_is_as_random_as_poissons() -> None:
    counts = [
        len(arrival_times("poisson", 20.0, num_requests=None, duration_s=5.0, seed=seed))
        for seed in range(200)
    ]
    mean = sum(counts) / len(counts)
    variance = sum((count - mean) ** 2 for count in counts) / len(counts)
    assert mean == pytest.approx(100, abs=4 * math.sqrt(100 / 200))
    assert variance == pytest.approx(100, rel=0.5)


@pytest.mark.parametrize("rate", [0.0, -1.0, math.inf, math.nan])
def test_a_rate_that_sends_nothing_is_refused(rate) -> None:
    with pytest.raises(InvalidConfig, match="sends nothing"):
        arrival_times("poisson", rate, num_requests=1, duration_s=None, seed=0)


def test_too_many_requests_are_refused() -> None:
    with pytest.raises(InvalidConfig, match="1 to 1,000,000"):
        arrival_times("constant", 1e6, num_requests=None, duration_s=1e5, seed=0)


def test_rates_of_a_sweep() -> None:
    assert sweep_rates("1,2,4.5") == [1.0, 2.0, 4.5]
    assert sweep_rates("1:8:4") == [1.0, 2.0, 4.0, 8.0]
    for text in ("", "1,x", "1:8", "1:8:1", "0:8:3", "1,-2", "1,inf"):
        with pytest.raises(InvalidConfig, match="--sweep"):
            sweep_rates(text)
