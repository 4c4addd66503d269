"""soak.py: fitted lines and their verdicts, what Linux and /metrics say, every request on a server."""

from __future__ import annotations

import math
import random
from dataclasses import replace

import pytest
import soak
import soak_window
import trend
from soak_load import KINDS, Asker, Surprise, Tally
from soak_vitals import cpu_seconds, memory_mb, parse_metrics, read_vitals
from soak_window import Window

from narrows.models.resolve import resolve_model

WINDOW = Window(
    minute=0.0,
    requests=10,
    tokens_per_s=100.0,
    tokens_per_cpu_s=60.0,
    probe_tokens_per_s=30.0,
    probe_answer=0,
    anonymous_mb=50.0,
    file_mb=400.0,
    num_fds=9,
    num_threads=6,
    kv_blocks_used=0,
    requests_left=0,
    busy_anonymous_mb=60.0,
    busy_fds=20,
    preemptions=1,
    drafted=5,
    accepted=2,
)


def noisy(count: int, *, change: float, noise: float, seed: int = 1) -> tuple[list[float], list[float]]:
    """Around 100, with `change` from the first to the last."""
    rng = random.Random(seed)
    times = [float(i) for i in range(count)]
    return times, [100 + change * i / (count - 1) + rng.gauss(0, noise) for i in range(count)]


def test_a_line_is_found_exactly_where_there_is_no_noise() -> None:
    found = trend.fit([0, 1, 2, 3, 4], [10, 12, 14, 16, 18])
    assert (found.mean, found.change) == (14, pytest.approx(8))
    assert (found.low, found.high) == (pytest.approx(8), pytest.approx(8))


def test_the_interval_of_independent_noise_is_the_textbook_one() -> None:
    times, values = [0.0, 1.0, 2.0, 3.0, 4.0, 5.0], [1.0, -1.0, 1.0, -1.0, 1.0, -1.0]
    found = trend.fit(times, values)
    slope, spread = -6 / 35, 17.5
    residual = 6 - slope**2 * spread
    half = 2.776 * math.sqrt(residual / 4 / spread) * 5
    assert found.change == pytest.approx(slope * 5)
    assert found.half_width == pytest.approx(half)


def test_the_interval_holds_the_truth_nineteen_times_of_twenty() -> None:
    hits = sum(
        found.low <= 7 <= found.high
        for seed in range(400)
        for found in [trend.fit(*noisy(30, change=7, noise=5, seed=seed))]
    )
    assert 0.92 <= hits / 400 <= 0.99


def test_values_that_resemble_their_neighbours_count_for_less() -> None:
    rng = random.Random(2)
    walk, level = [], 0.0
    for _ in range(60):
        level = 0.9 * level + rng.gauss(0, 1)
        walk.append(level)
    assert trend.independent_values(walk) < 15
    assert trend.independent_values([1.0, -1.0] * 30) == 60
    assert trend.independent_values([0.0] * 5) == 5


@pytest.mark.parametrize(
    ("change", "noise", "verdict"),
    [
        (0, 1, trend.FLAT),
        (12, 1, trend.DRIFT),
        (-12, 1, trend.DRIFT),
        (0, 40, trend.UNSURE),
        (3, 0.5, "FLAT"),
    ],
)
def test_verdicts(change: float, noise: float, verdict: str) -> None:
    assert trend.fit(*noisy(50, change=change, noise=noise)).verdict(5.0) == verdict


def test_a_trend_needs_values_and_time() -> None:
    with pytest.raises(ValueError, match="needs 4 values"):
        trend.fit([0, 1, 2], [1, 2, 3])
    with pytest.raises(ValueError, match="same time"):
        trend.fit([1, 1, 1, 1], [1, 2, 3, 4])


@pytest.mark.parametrize(("freedom", "t"), [(1, 12.706), (5, 2.571), (12, 2.179), (30, 2.042), (1000, 1.962)])
def test_quantiles_are_students(freedom: float, t: float) -> None:
    assert trend.t_95(freedom) == pytest.approx(t, abs=2e-3)


def test_memory_is_split_into_anonymous_and_files() -> None:
    rollup = (
        "55e0-7fff ---p 00000000 00:00 0  [rollup]\nRss:   3000 kB\nPss:  2900 kB\n"
        "Pss_Anon: 900 kB\nAnonymous:   1000 kB\nAnonHugePages: 5 kB\n"
    )
    assert memory_mb(rollup) == (pytest.approx(1.024), pytest.approx(2.048))


def test_cpu_time_is_read_behind_a_name_with_brackets() -> None:
    fields = ["S", *["0"] * 10, "150", "50", *["0"] * 30]
    assert cpu_seconds(f"12 (a) b (c) {' '.join(fields)}", 100) == 2.0


def test_this_process_has_vitals() -> None:
    import os

    vitals = read_vitals(os.getpid())
    assert vitals.anonymous_mb > 1
    assert vitals.num_fds >= 3
    assert vitals.num_threads >= 1
    assert vitals.cpu_s > 0


def test_metrics_are_summed_over_labels_and_buckets_left_out() -> None:
    text = (
        '# HELP narrows_x help\nnarrows_kv_blocks_used{model_name="a"} 3.0\n'
        'narrows_requests_finished_total{finish_reason="stop",model_name="a"} 2.0\n'
        'narrows_requests_finished_total{finish_reason="abort",model_name="a"} 5.0\n'
        'narrows_queue_time_seconds_bucket{le="0.1",model_name="a"} 7.0\n'
    )
    assert parse_metrics(text) == {"narrows_kv_blocks_used": 3.0, "narrows_requests_finished_total": 7.0}


def series(**last: float) -> list[Window]:
    """Twenty windows in which the named fields go in a line from what they were to `last`."""
    windows = []
    for i in range(20):
        changed = {
            name: getattr(WINDOW, name) + (value - getattr(WINDOW, name)) * i / 19
            for name, value in last.items()
        }
        windows.append(replace(WINDOW, minute=float(i), **changed))  # type: ignore[arg-type]
    return windows


def test_growing_memory_and_falling_speed_are_bad_and_the_reverse_is_not() -> None:
    bad = {one.name for one in soak_window.judge(series(anonymous_mb=60.0, tokens_per_s=80.0)) if one.is_bad}
    assert bad == {"anonymous_mb", "tokens_per_s"}
    good = soak_window.judge(series(anonymous_mb=40.0, tokens_per_s=120.0))
    assert {one.name for one in good if one.verdict == trend.DRIFT} == {"anonymous_mb", "tokens_per_s"}
    assert not any(one.is_bad for one in good)
    assert all(one.verdict == trend.FLAT for one in soak_window.judge(series(num_fds=9.5)))


def test_what_is_left_on_an_idle_server_is_a_leak() -> None:
    assert soak_window.leaks([WINDOW]) == []
    found = soak_window.leaks([replace(WINDOW, kv_blocks_used=2), replace(WINDOW, probe_answer=1)])
    assert "2 KV blocks" in found[0]
    assert "another answer" in found[1]


def test_the_server_gets_too_few_blocks_and_the_options_given() -> None:
    words, sizes = soak.serve_words(resolve_model(None), 512, ["--threads", "1"])
    assert words[-2:] == ["--threads", "1"]
    assert (sizes.vocab, sizes.context) == (4096, 512)
    kv_bytes = int(words[words.index("--kv-memory") + 1])
    assert 512 * 1280 < kv_bytes < soak.MAX_RUNNING * 512 * 1280


def test_a_tally_keeps_the_first_surprises_and_counts_all() -> None:
    tally = Tally()
    for i in range(30):
        tally.note("answer", f"{i}", was_refused=False)
    tally.note("stream", "", was_refused=True)
    assert (tally.num_surprises, len(tally.surprises), tally.refused, tally.total) == (30, 20, 1, 31)


def test_every_kind_of_request_meets_a_real_server() -> None:
    from narrows.demo.server_process import ServerProcess

    words, sizes = soak.serve_words(resolve_model(None), 256, ["--threads", "1"])
    with ServerProcess(words) as server:
        asker = Asker(server.url, sizes, random.Random(3))
        for kind, (make, _) in KINDS.items():
            for _ in range(3 if kind == "error" else 1):
                make(asker)
        with pytest.raises(Surprise, match="404 instead of 200"):
            asker.ask(asker.body([5], 1), path="/v1/nothing")
    output = server._process.stdout
    assert output is not None
    output.close()
