"""Profiles that exist only on paper: groups, causes, verdicts and remedies by arithmetic alone."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from narrows.diagnose.candidate import Candidate
from narrows.diagnose.eager import narrows
from narrows.diagnose.eager.assemble import eager_report_of
from narrows.diagnose.eager.findings import EagerFindings, causes
from narrows.diagnose.eager.groups import GROUPS, Group
from narrows.diagnose.eager.phases import group_seconds, phase_of
from narrows.diagnose.eager.remedies import eager_remedies
from narrows.diagnose.eager.seen import Counts, EagerCeilings, Name, Profile, Rate, Run, Service, Threads
from narrows.diagnose.eager.verdicts import eager_verdicts
from narrows.diagnose.html import render
from narrows.diagnose.process import Spell
from narrows.diagnose.quality import SAME
from narrows.diagnose.text import lines
from narrows.report import Report
from tests.diagnose.synthetic import machine, workload

CEILINGS = EagerCeilings(
    gb_per_s=40.0,
    cache_gb_per_s=200.0,
    cache_bytes=32 << 20,
    gflop_per_s=200.0,
    rates={"float32": Rate(180.0, 20.0), "bfloat16": Rate(360.0, 40.0)},
    call_s=1e-6,
    granted=4,
    native_bf16=True,
)


def service(**changes: Any) -> Service:
    values: dict[str, Any] = {
        "name": "a service",
        "family": "llama",
        "words": "transformers on torch",
        "dtype": "float32",
        "device": "cpu",
        "parameters": 1_000_000_000,
        "weight_bytes": 4_000_000_000,
        "threads": Threads(4, 4),
        "layers": 16,
        "max_context": 4096,
    }
    return Service(**{**values, **changes})


def run_of(
    name: Name,
    seconds: dict[Group, float],
    *,
    wall_s: float,
    counts: dict[Group, Counts] | None = None,
    slower: float = 1.5,
    **profile: Any,
) -> Run:
    """`seconds` of `wall_s`; the profiler made all of it `slower`."""
    seen = Profile(wall_s * slower, {group: s * slower for group, s in seconds.items()}, 1000, **profile)
    return Run(name, wall_s, 10, 1, 1, 640, seen, counts or {})


def findings(
    decode: dict[Group, float],
    *,
    wall_s: float = 0.1,
    counts: dict[Group, Counts] | None = None,
    **changes: Any,
) -> EagerFindings:
    """One prompt of no time to speak of, 101 tokens, steps as given."""
    profile = changes.pop("profile", {})
    runs: dict[Name, Run] = {
        "prefill": run_of("prefill", {"sampling": 1e-9}, wall_s=1e-9),
        "decode": run_of("decode", decode, wall_s=wall_s, counts=counts, **profile),
    }
    ceilings = changes.pop("ceilings", CEILINGS)
    return EagerFindings(service(**changes), runs, ceilings, workload(512, 101))


def shares(found: EagerFindings) -> dict[str, float]:
    return {verdict.kind: verdict.share for verdict in eager_verdicts(found)}


def test_groups_and_the_rest_add_up_to_the_time_without_the_profiler() -> None:
    run = run_of("decode", {"matrices": 0.06, "copies": 0.01}, wall_s=0.1)
    seconds, outside_s = group_seconds(run)
    assert seconds["matrices"] == pytest.approx(0.06)
    assert sum(seconds.values()) + outside_s == pytest.approx(0.1)
    phase = phase_of(run, CEILINGS)
    assert sum(op.share for op in phase.ops) + phase.outside_s / phase.seconds == pytest.approx(1.0)
    crowded = replace(run, profile=Profile(0.1, {"matrices": 0.3}, 1))  # on more threads than one
    seconds, outside_s = group_seconds(crowded)
    assert (seconds["matrices"], outside_s) == (pytest.approx(0.1), 0.0)


def test_a_service_of_copies() -> None:
    found = findings({"copies": 0.07, "matrices": 0.02}, counts={"copies": Counts(10, 0, 10**6, 10**6)})
    assert shares(found)["copies"] == pytest.approx(0.7, rel=1e-6)
    best = eager_remedies(found, (), "tpot")[0]
    assert best.kind in ("static-cache", "torch-dtype:bfloat16")
    static = next(one for one in eager_remedies(found, (), "tpot") if one.kind == "static-cache")
    assert static.gain == pytest.approx(0.1 / 0.03)


def test_a_service_of_dispatch() -> None:
    counts: dict[Group, Counts] = {"elementwise": Counts(2000, 0, 8000, 8000)}
    found = findings({"elementwise": 0.01, "views": 0.02, "matrices": 0.01}, counts=counts)
    # Outside 0.06, views, and 2,000 calls of a microsecond of the elementwise hundredth.
    assert shares(found)["dispatch"] == pytest.approx(0.82, rel=1e-6)
    assert shares(found)["elementwise"] == pytest.approx(0.08, rel=1e-6)
    compiled = eager_remedies(found, (), "tpot")[-1]
    assert compiled.is_bound
    assert compiled.gain == pytest.approx(10.0)
    assert "<10.00x  unknown" in "\n".join(lines(eager_report_of(found, machine(), "tpot")))


def test_a_service_of_matrices_bound_by_memory_and_its_fp32_half() -> None:
    counts: dict[Group, Counts] = {"matrices": Counts(100, 2 * 10**9, 3_600_000_000, 10**6)}
    found = findings({"matrices": 0.1}, counts=counts)
    op = found.phases["decode"].ops[0]
    assert (op.ceiling, op.fraction) == ("memory", pytest.approx(0.9))
    assert shares(found)["decode-memory"] == pytest.approx(0.5, rel=1e-6)
    assert shares(found)["fp32-weights"] == pytest.approx(0.5, rel=1e-6)
    half = next(one for one in eager_remedies(found, (), "tpot") if one.kind == "torch-dtype:bfloat16")
    assert half.gain == pytest.approx(2.0)
    narrower = findings({"matrices": 0.1}, counts=counts, dtype="bfloat16")
    assert shares(narrower)["decode-memory"] == pytest.approx(1.0, rel=1e-6)


def test_half_of_the_bandwidth_twice_the_fraction() -> None:
    counts: dict[Group, Counts] = {"matrices": Counts(100, 2 * 10**9, 800_000_000, 10**6)}
    plenty = findings({"matrices": 0.1}, counts=counts).phases["decode"].ops[0]
    scarce = findings({"matrices": 0.1}, counts=counts, ceilings=replace(CEILINGS, gb_per_s=20.0))
    assert (plenty.ceiling, plenty.fraction) == ("overhead", pytest.approx(0.2))
    assert (scarce.phases["decode"].ops[0].ceiling) == "memory"


def test_a_prompt_bound_by_arithmetic() -> None:
    counts: dict[Group, Counts] = {"matrices": Counts(100, 16 * 10**9, 10**6, 10**6)}
    run = run_of("prefill", {"matrices": 0.1}, wall_s=0.1, counts=counts)
    found = EagerFindings(
        service(), {"prefill": run, "decode": replace(run, name="decode")}, CEILINGS, workload(512, 1)
    )
    assert shares(found) == {"prefill-compute": pytest.approx(1.0)}
    assert "bound by arithmetic" in eager_verdicts(found)[0].words


def test_sixteen_bits_that_multiply_slower_than_thirty_two() -> None:
    slow = replace(
        CEILINGS, rates={"float32": Rate(180.0, 20.0), "bfloat16": Rate(360.0, 5.0)}, native_bf16=False
    )
    found = findings({"matrices": 0.08}, dtype="bfloat16", ceilings=slow)
    assert shares(found)["emulated"] == pytest.approx(0.8, rel=1e-6)
    assert "no instructions for it" in eager_verdicts(found)[0].words
    full = next(one for one in eager_remedies(found, (), "tpot") if one.kind == "torch-dtype:float32")
    assert full.gain == pytest.approx(0.1 / (0.02 + 0.08 / 4))
    assert "emulated" not in shares(findings({"matrices": 0.08}, dtype="bfloat16"))


@pytest.mark.parametrize(
    ("threads", "seen", "kind", "share"),
    [(16, 1, "threads", 0.75), (4, 2, "nested-threads", 0.5), (4, 1, None, 0.0)],
)
def test_threads_that_are_too_many(threads: int, seen: int, kind: str | None, share: float) -> None:
    found = findings({"matrices": 0.09}, threads=Threads(threads, 4), profile={"threads_seen": seen})
    told = shares(found)
    if kind is None:
        assert not {"threads", "nested-threads"} & set(told)
    else:
        assert told[kind] == pytest.approx(share)


def test_threads_that_are_too_few() -> None:
    more = replace(CEILINGS, granted_rate=Rate(720.0, 40.0))
    found = findings({"matrices": 0.08}, threads=Threads(1, 1, {"OMP_NUM_THREADS": "1"}), ceilings=more)
    assert shares(found)["threads"] == pytest.approx(0.4)
    remedy = next(one for one in eager_remedies(found, (), "tpot") if one.kind == "torch-threads:4")
    assert (remedy.gain, remedy.command) == (pytest.approx(1 / 0.6), "OMP_NUM_THREADS=4")


def test_a_gpu_that_waits_for_its_launches() -> None:
    gpu: dict[str, Any] = {"busy_s": 0.02, "launches": 900, "syncs": 30}
    found = findings({"matrices": 0.02}, device="cuda", dtype="bfloat16", profile={"slower": 1.0, **gpu})
    told = shares(found)
    assert told["launches"] == pytest.approx(0.8, rel=1e-6)
    assert told["synchronisation"] == pytest.approx(0.8, rel=1e-6)
    assert "threads" not in told
    assert any("reduce-overhead" in str(one.command) for one in eager_remedies(found, (), "tpot"))


def test_every_second_has_one_cause() -> None:
    decode: dict[Group, float] = dict.fromkeys(GROUPS, 0.01)
    counts: dict[Group, Counts] = {group: Counts(50, 10**6, 10**8, 10**6) for group in GROUPS}
    found = findings(decode, counts=counts)
    assert sum(causes(found).values()) == pytest.approx(100 * 0.1 + 1e-9)


def test_an_interrupted_run_says_what_it_has() -> None:
    whole = findings({"matrices": 0.09})
    bare = {name: replace(run, profile=None, counts={}) for name, run in whole.runs.items()}
    found = EagerFindings(service(), bare, CEILINGS, workload(512, 101))
    report = eager_report_of(found, machine(), "tpot", notes=("interrupted",))
    assert report.now.tpot_s == pytest.approx(0.1)
    assert (report.verdicts, report.remedies) == ((), ())
    assert "decode, a token" in "\n".join(lines(report))


def test_the_report_goes_through_json_text_and_page() -> None:
    found = findings({"matrices": 0.06, "copies": 0.02})
    then = replace(found.figures, tpot_s=0.02, ttft_s=0.4, tokens_per_s=50.0)
    assert (
        narrows.beside(found.figures, replace(then, tpot_s=2e-4))[1].error
        > narrows.beside(found.figures, then)[1].error
    )
    rows = narrows.beside(found.figures, then, then)
    report = replace(eager_report_of(found, machine(), "tpot"), beside=rows)
    assert Report.from_json(json.loads(json.dumps(report.to_json()))) == report
    text, page = "\n".join(lines(report)), render(report)
    for part in (text, page):
        assert "Side by side" in part
        assert "transformers on torch" in part
        assert "float32 GMAC/s" in part
    assert [row.what for row in rows] == ["TTFT", "TPOT", "throughput", "memory"]
    assert narrows.beside(found.figures, None)[0].predicted is None


def test_a_quota_that_stops_the_process_and_a_full_memory() -> None:
    spell = Spell(10.0, 7, 10**9, 10**6, 2.5, 0.0)
    told = {one.kind: one for one in eager_verdicts(replace(findings({"matrices": 0.09}), spell=spell))}
    assert told["throttling"].share == pytest.approx(0.25)
    assert told["paging"].evidence == ("7 pages read from disk",)


def test_what_others_took_is_no_gain() -> None:
    quiet = findings({"matrices": 0.09})
    runs = {name: replace(run, main_thread=0.25) for name, run in quiet.runs.items()}
    then = Candidate("narrows", "under Narrows", replace(quiet.figures, tpot_s=0.01), SAME)
    one = eager_remedies(quiet, [then], "tpot")[0]
    other = eager_remedies(replace_runs(quiet, runs), [then], "tpot")[0]
    assert one.gain == other.gain == pytest.approx(10)
    assert one.low == pytest.approx(10 / 1.2)
    assert other.low == pytest.approx(10 / 1.2 / 4)
    assert shares(replace_runs(quiet, runs))["neighbours"] == pytest.approx(0.75)


def replace_runs(found: EagerFindings, runs: Any) -> EagerFindings:
    return EagerFindings(found.service, runs, found.ceilings, found.workload)
