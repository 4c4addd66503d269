"""Predictions: what halves when a ceiling halves, how loads make figures, and what was measured rescales."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from narrows.diagnose.candidate import weights_setup
from narrows.diagnose.predict import OUTSIDE, CurveCeilings, Predictor, Present, ProfileCeilings, compose
from narrows.diagnose.setup import LOADS, Setup
from narrows.errors import InvalidConfig
from tests.diagnose.synthetic import machine, seen, subject, workload


@pytest.fixture
def setup(tmp_path: Path) -> Setup:
    return seen(subject(tmp_path), workload(512, 128, 4)).findings.setup


def test_one_stream_reads_its_prompt_and_then_writes(setup: Setup) -> None:
    alone = replace(setup, streams=1)
    found = compose(alone, {"prefill": 2.0, "decode": 0.1, "mixed": 9.0}, host_s=0.01, request_s=0.5)
    assert found.ttft_s == pytest.approx(2.0 + 0.01 + 0.5)
    assert found.tpot_s == pytest.approx(0.11)
    assert found.stall_s == 0
    assert found.tokens_per_s == pytest.approx(128 / (2.01 + 127 * 0.11))
    assert found.machine_s_per_1k == pytest.approx(1000 / found.tokens_per_s)


def test_streams_get_a_token_with_every_chunk_of_another_prompt(setup: Setup) -> None:
    """4 streams, 4 chunks of 128 each: a cycle is 16 mixed steps, in which each stream draws 12 tokens and
    the first of its own, and 115 decode steps for the rest.
    """
    found = compose(setup, {"prefill": 2.0, "decode": 0.1, "mixed": 0.6})
    assert found.ttft_s == pytest.approx(4 * 0.6)
    assert found.stall_s == pytest.approx(0.6)
    cycle_s = 16 * 0.6 + (127 - 12) * 0.1
    assert found.tokens_per_s == pytest.approx(4 * 128 / cycle_s)
    assert found.tpot_s == pytest.approx((cycle_s - 2.4) / 127)


def test_half_the_bandwidth_doubles_what_waits_for_memory_and_nothing_else(tmp_path: Path) -> None:
    model = subject(tmp_path)
    full, half = (seen(model, None, machine(gb_per_s=b)).findings for b in (40.0, 20.0))
    before, after = full.figures, half.figures
    assert 1.8 < after.tpot_s / before.tpot_s <= 2.0
    assert 1.0 <= after.ttft_s / before.ttft_s < 1.2


def test_half_the_peak_doubles_what_waits_for_the_multipliers(tmp_path: Path) -> None:
    model = subject(tmp_path)
    full, half = (
        seen(model, None, machine(gmac_per_s=peak), weights="q8").findings for peak in (800.0, 400.0)
    )
    assert 1.8 < half.figures.ttft_s / full.figures.ttft_s <= 2.01
    assert 1.0 <= half.figures.tpot_s / full.figures.tpot_s < 1.1


def test_what_was_measured_rescales_its_group_alone(setup: Setup, tmp_path: Path) -> None:
    predictor = seen(subject(tmp_path), workload(512, 128, 4)).findings.predictor
    plain = predictor.seconds(setup, "decode")
    measured = {**plain, "up": 3 * plain["up"], OUTSIDE: 5e-3}
    calibrated = Predictor(predictor.model, Present(setup, {"decode": measured}))
    assert calibrated.seconds(setup, "decode") == pytest.approx(measured)
    other = replace(setup, streams=16)
    raw, found = predictor.seconds(other, "decode"), calibrated.seconds(other, "decode")
    assert found["up"] == pytest.approx(3 * raw["up"])
    assert found["down"] == pytest.approx(raw["down"])
    assert found[OUTSIDE] == 5e-3
    assert calibrated.seconds(other, "prefill") == predictor.seconds(other, "prefill")


def test_a_profile_without_a_ceiling_says_why() -> None:
    blind = replace(machine(), dram_gb_per_s=(), unknown={"dram": "no memory to spare"})
    with pytest.raises(InvalidConfig, match="no memory to spare"):
        ProfileCeilings(blind).at(4, 1 << 30)


def test_between_cache_and_memory_lies_the_share_that_stays() -> None:
    source = ProfileCeilings(machine(gb_per_s=40.0))
    assert source.at(4, 16 << 20) == pytest.approx((200.0, 800.0))
    assert source.at(4, 8 << 30)[0] == pytest.approx(40.0, rel=1e-3)
    assert 40.0 < source.at(4, 64 << 20)[0] < 200.0
    assert source.at(2, 8 << 30) == pytest.approx((28.0, 400.0), rel=1e-3)
    sparse = replace(machine(), dram_gb_per_s=(10.0, 40.0))
    assert source.curve(4) == CurveCeilings(200.0, 40.0, 800.0, 32 << 20)
    assert ProfileCeilings(sparse).at(4, 8 << 30)[0] == pytest.approx(40.0, rel=1e-3)


def test_every_load_has_operators(setup: Setup, tmp_path: Path) -> None:
    predictor = seen(subject(tmp_path)).findings.predictor
    for load in LOADS:
        seconds = predictor.seconds(setup, load)
        assert all(value >= 0 for value in seconds.values())
        assert predictor.total(setup, load) == pytest.approx(sum(seconds.values()))


def test_another_format_is_another_kernel_whose_errors_are_its_own(tmp_path: Path) -> None:
    found = seen(subject(tmp_path), workload(512, 128, 2)).findings
    setup, predictor = found.setup, found.predictor
    twice = {load: {g: 2 * s for g, s in predictor.seconds(setup, load).items()} for load in LOADS}
    calibrated = Predictor(predictor.model, Present(setup, twice))
    other = weights_setup(found, "q4")
    raw, told = predictor.seconds(other, "decode"), calibrated.seconds(other, "decode")
    assert told["up"] == pytest.approx(raw["up"])
    assert told["attention"] == pytest.approx(2 * raw["attention"])
    assert calibrated.seconds(other, "prefill")["attention"] == pytest.approx(
        predictor.seconds(other, "prefill")["attention"]  # in integers now: another kernel, too
    )
    wider = replace(setup, streams=4)
    assert calibrated.seconds(wider, "decode")["up"] == pytest.approx(
        2 * predictor.seconds(wider, "decode")["up"]
    )
