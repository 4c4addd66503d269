"""From records to figures, text, JSON and page. Golden: the same records give the same report, to the
character.

Remake after a change on purpose: python -m pytest tests/bench/test_bench_report.py --no-header -q with
NARROWS_WRITE_GOLDEN=1 in the environment, then read the difference.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from bench_fakes import measured, record, records, result, spoilt

from narrows.bench import document, report
from narrows.bench.html import page
from narrows.bench.load import Phase
from narrows.bench.metrics import summarize
from narrows.bench.record import to_json
from narrows.bench.server_figures import compare as cross_check
from narrows.bench.server_figures import parse_samples
from narrows.bench.slo import meets, parse_slo
from narrows.errors import InvalidConfig

GOLDEN = Path(__file__).parent / "golden"
METRICS = """# HELP narrows_generation_tokens_total Tokens drawn.
narrows_generation_tokens_total{model_name="m"} %d
narrows_time_to_first_token_seconds_sum{model_name="m"} %g
narrows_time_to_first_token_seconds_count{model_name="m"} %d
narrows_time_to_first_token_seconds_bucket{le="+Inf"} 7
"""


def golden(name: str, text: str) -> str:
    """The golden text, written first where that is asked for."""
    path = GOLDEN / name
    if os.environ.get("NARROWS_WRITE_GOLDEN"):
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    return path.read_text()


def same(found: Any, expected: Any) -> bool:
    """Equal but for the last digits of numbers: sums depend on the CPU's vector width."""
    if isinstance(expected, dict):
        return found.keys() == expected.keys() and all(same(found[key], expected[key]) for key in expected)
    if isinstance(expected, list):
        return len(found) == len(expected) and all(map(same, found, expected))
    return found == (pytest.approx(expected, rel=1e-7) if isinstance(expected, float) else expected)


def test_the_figures_of_a_phase_by_hand() -> None:
    summary = measured(records()).summary
    ttft, tpot, itl, e2e = (summary.latency_s[name] for name in ("ttft", "tpot", "itl", "e2e"))
    assert ttft.percentiles[50].value == pytest.approx(0.1195)
    assert ttft.percentiles[90].value == pytest.approx(0.1351)
    assert ttft.mean.value == pytest.approx(0.1195)
    assert tpot.percentiles[99].value == pytest.approx(0.02)
    assert (itl.count, itl.low, itl.high) == (400, pytest.approx(0.02), pytest.approx(0.02))
    assert e2e.percentiles[50].value == pytest.approx(0.3195)
    assert summary.window_s == pytest.approx(3.9 + 0.139 + 0.2)
    assert summary.requests_per_s.value == pytest.approx(40 / summary.window_s)
    assert summary.output_tokens_per_s.value == pytest.approx(440 / summary.window_s)
    assert summary.tokens.output == 440
    assert summary.client.warnings == ()


def test_goodput_counts_failures_as_misses() -> None:
    good = measured(records(), ttft=0.1195, tpot=0.05).summary.goodput
    assert good is not None
    assert (good.met, good.share) == (20, 0.5)
    worse = measured(spoilt(), ttft=0.1195).summary.goodput
    assert worse is not None
    # 39 are judged (one was interrupted); 20 would have met it, two of those failed and one was interrupted.
    assert (worse.met, worse.share) == (17, pytest.approx(17 / 39))


def test_errors_are_counted_by_kind_and_stay_out_of_the_latencies() -> None:
    summary = measured(spoilt()).summary
    assert summary.requests.errors == {"http 429": 1, "timeout_first": 1}
    assert (summary.requests.ok, summary.requests.failed, summary.requests.interrupted) == (37, 2, 1)
    assert (summary.requests.without_done, summary.requests.short) == (1, 1)
    assert summary.requests.examples["http 429"] == "queue full"
    assert summary.latency_s["ttft"].count == 37
    assert summary.tokens.counted_by_chunks == 1
    assert summary.tokens.unknown_itl == 1 + 3


def test_chunks_that_were_held_back_and_came_together_are_told() -> None:
    bunched = [record(i, intended_s=i / 10, at_s=[i / 10 + 0.1] * 5) for i in range(40)]
    tokens = measured(bunched).summary.tokens
    assert (tokens.gaps, tokens.bunched_gaps) == (160, 160)
    assert "100% of the chunks came in one read" in report.text(result(bunched))
    assert "one read" not in report.text(result(records()))


def test_a_client_that_is_late_is_told() -> None:
    late = [record(i, intended_s=i / 10, at_s=(i / 10 + 0.1,), sent_s=i / 10 + 0.005) for i in range(40)]
    phase = Phase("x", tuple(late), 4.0, 10.0, None, 40, (0.004,) * 50)
    warnings = summarize(phase, {}).client.warnings
    assert len(warnings) == 2
    assert "sent requests late by 5.0 ms" in warnings[0]
    assert "woke late by 4.0 ms" in warnings[1]


def test_nothing_measured_is_a_report_too() -> None:
    failed = [record(i, intended_s=i / 10, at_s=(), error="refused", num_output=None) for i in range(3)]
    shown = result(failed)
    assert "0 of 3 requests answered" in report.text(shown)
    assert "3 refused" in report.text(shown)
    assert "refused" in page(document.to_json(shown))
    assert "0 of 0" in report.text(result([]))


def test_the_text_is_the_golden_one() -> None:
    text = report.text(result(spoilt(), ttft=0.1195, tpot=0.05)) + "\n"
    assert text == golden("report.txt", text)


def test_the_json_is_the_golden_one() -> None:
    found = document.to_json(result(spoilt(), ttft=0.1195))
    expected = json.loads(golden("report.json", json.dumps(found) + "\n"))
    assert same(json.loads(json.dumps(found)), expected)
    assert not same({**expected, "schema": "x"}, expected)


def test_a_document_is_read_back_with_its_records(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    document.write(path, document.to_json(result(spoilt())))
    read = document.read(path)
    found = document.phase_records(read["phases"][0], "a")
    assert [to_json(one) for one in found] == [to_json(one) for one in spoilt()]
    assert found[7].num_output == 4
    document.write(path, document.to_json(result(records()), with_records=False))
    with pytest.raises(InvalidConfig, match="no records"):
        document.read(path)
    path.write_text('{"schema": "other/1"}')
    with pytest.raises(InvalidConfig, match="schema"):
        document.read(path)
    path.write_text("{")
    with pytest.raises(InvalidConfig, match="no result of narrows bench"):
        document.read(path)
    with pytest.raises(InvalidConfig, match="cannot be written"):
        document.write(tmp_path / "none" / "a.json", {})
    with pytest.raises(InvalidConfig, match="damaged record"):
        document.phase_records({"records": [{"bogus": 1}]}, "a")


def test_the_servers_figures_are_laid_beside_the_clients() -> None:
    before = parse_samples(METRICS % (100, 5.0, 50))
    assert "narrows_time_to_first_token_seconds_bucket" not in before
    agree = cross_check(records(), before, parse_samples(METRICS % (540, 5.0 + 40 * 0.1195, 90)))
    assert {check.what: check.differs for check in agree} == {
        "output tokens": False,
        "TTFT, mean": False,
        "TTFT, median": False,
        "TPOT, median": False,
    }
    differ = cross_check(records(), before, parse_samples(METRICS % (1000, 5.0 + 40 * 0.05, 90)))
    found = {check.what: check for check in differ}
    assert found["output tokens"].differs
    assert "others" in found["output tokens"].note
    assert found["TTFT, mean"].differs
    assert found["TTFT, mean"].server == pytest.approx(0.05)


def test_garbage_for_metrics_gives_no_figures() -> None:
    assert parse_samples("<html>\n\x00 1\nname notanumber\n{x} 3\n") == {}


@pytest.mark.parametrize(
    "text", ["", "ttft", "ttft=500", "ttft=0ms", "ttft=-1s", "tps=1s", "ttft=1s,ttft=2s", "e2e=infs"]
)
def test_objectives_that_are_none_are_refused(text) -> None:
    with pytest.raises(InvalidConfig, match="--slo"):
        parse_slo(text)


def test_objectives() -> None:
    limits = parse_slo("ttft=500ms, tpot=50ms,e2e=1.5s")
    assert limits == {"ttft": 0.5, "tpot": 0.05, "e2e": 1.5}
    assert meets({"ttft": 0.5, "tpot": None, "e2e": 1.0}, limits)
    assert not meets({"ttft": 0.51, "tpot": None, "e2e": 1.0}, limits)
