"""Verdicts and rankings on machines of paper: what arithmetic says must be what is said."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from narrows.diagnose.assemble import report
from narrows.diagnose.findings import causes
from narrows.diagnose.loading import LoadingTimes
from narrows.diagnose.observe import Observed
from narrows.diagnose.process import Readings, Spell, between, read_process
from narrows.diagnose.queueing import queueing
from narrows.machine.profile import Gpu, Link
from narrows.report import Remedy, Report
from tests.diagnose.synthetic import as_if_measured, machine, seen, shares, subject, workload

QUIET = Spell(10.0, 0, 0, 8 << 30, 0.0, 0.0)


def told(found: Observed) -> Report:
    return report(found, {})


def remedy(found: Report, kind: str) -> Remedy:
    return next(one for one in found.remedies if one.kind == kind)


def test_decode_waits_for_memory_and_fewer_bits_help_most(tmp_path: Path) -> None:
    found = told(seen(subject(tmp_path), workload(128, 256)))
    assert found.verdicts[0].kind == "decode-memory"
    assert "GB of weights" in found.verdicts[0].words
    assert found.verdicts[0].evidence
    best = remedy(found, "weights:q4-fast")
    assert 3.0 < best.gain < 4.0
    assert best.gain > remedy(found, "weights:q4").gain > remedy(found, "weights:q8").gain > 1.5


def test_a_lower_peak_turns_the_verdict_and_the_ranking_as_arithmetic_says(tmp_path: Path) -> None:
    """A quarter of the peak makes reading four times as long, and leaves what waits for memory as it was."""
    model, asked = subject(tmp_path), workload(1024, 96)
    full, half = (seen(model, asked, machine(gmac_per_s=peak), weights="q8") for peak in (1600.0, 400.0))
    before, after = shares(told(full)), shares(told(half))
    assert max(before, key=lambda kind: before[kind]) == "decode-memory"
    assert max(after, key=lambda kind: after[kind]) == "prefill-compute"
    seconds = [causes(one.findings) for one in (full, half)]
    assert seconds[1]["prefill-compute"] == pytest.approx(4 * seconds[0]["prefill-compute"], rel=0.03)
    assert seconds[1]["decode-memory"] == pytest.approx(seconds[0]["decode-memory"], rel=0.05)


def test_a_halved_bandwidth_makes_fewer_bits_gain_more(tmp_path: Path) -> None:
    model, asked = subject(tmp_path), workload(512, 64, 8)
    full, half = (
        told(seen(model, asked, machine(gb_per_s=rate), weights="q8", target="throughput"))
        for rate in (160.0, 20.0)
    )
    assert remedy(half, "weights:q4-fast").gain > 1.1 * remedy(full, "weights:q4-fast").gain
    assert shares(half).get("decode-memory", 0) > shares(full).get("decode-memory", 0)


def test_shares_of_a_request_add_up(tmp_path: Path) -> None:
    for streams in (1, 4):
        found = as_if_measured(
            seen(subject(tmp_path), workload(512, 64, streams)), host_s=1e-3, request_s=0.1
        )
        figures = found.findings.figures
        whole = figures.ttft_s + 63 * figures.tpot_s
        assert sum(causes(found.findings).values()) == pytest.approx(whole, rel=1e-6)


def test_long_contexts_are_told_from_weights(tmp_path: Path) -> None:
    model = subject(tmp_path)
    near, far = (
        causes(seen(model, workload(prompt, 64), weights="q4").findings)["decode-kv"]
        for prompt in (1000, 50_000)
    )
    assert far > 20 * near  # 48 times the keys, but for blocks that are not full
    found = told(seen(model, workload(60_000, 4096, 1), weights="q4", kv="f16"))
    assert "Long contexts" in next(one.words for one in found.verdicts if one.kind == "decode-kv")
    eight = remedy(found, "kv:int8")
    assert eight.gain > 1.2
    assert eight.command is not None
    assert "--kv-dtype int8" in eight.command


def test_the_host_is_named_where_it_takes_the_time(tmp_path: Path) -> None:
    found = as_if_measured(seen(subject(tmp_path), weights="q4"), host_s=0.2, request_s=0.1)
    made = told(found)
    assert made.verdicts[0].kind == "host"
    assert "200,000 us a step" in made.verdicts[0].words
    assert remedy(made, "weights:q4-fast").gain < 1.05  # fewer bits do not help then


def test_prompts_of_others_stall_streams_and_smaller_chunks_shorten_the_wait(tmp_path: Path) -> None:
    made = told(seen(subject(tmp_path), workload(4096, 64, 8), target="ttft"))
    assert made.verdicts[0].kind == "batching"
    small = remedy(made, "chunk:32")
    assert small.figures.stall_s < made.now.stall_s
    assert "--prefill-chunk 32" in (small.command or "")


def test_arrivals_wait_and_too_many_never_end(tmp_path: Path) -> None:
    model = subject(tmp_path)
    rates = {}
    for rate in (0.01, 0.5, 1000.0):
        made = told(seen(model, workload(512, 64, 1, rate), weights="q4"))
        rates[rate] = shares(made).get("queueing", 0.0)
    assert rates[0.01] < rates[0.5] < rates[1000.0] == 1.0


def test_the_queue_is_littles_and_pollaczeks() -> None:
    found = queueing(2.0, lambda streams: min(4.0, 1.0 * streams), [5.0, 5.0, 5.0], max_running=64)
    assert (found.capacity, found.streams) == (4.0, 2)
    assert found.wait_s == pytest.approx(0.5 / 0.5 * 0.25 / 2)
    spread = queueing(2.0, lambda streams: 4.0, [1.0, 9.0], max_running=64)  # variation 16/25
    assert spread.wait_s == pytest.approx(found.wait_s * (1 + 16 / 25))
    assert queueing(4.0, lambda streams: 4.0, [1.0], max_running=8).wait_s is None


def test_a_quota_below_the_threads_is_told_with_its_evidence(tmp_path: Path) -> None:
    profile = machine(cores={"quota": 2.0, "quota_source": "cgroup v2"})
    made = told(seen(subject(tmp_path), None, profile, threads=8))
    verdict = next(one for one in made.verdicts if one.kind == "threads")
    assert verdict.share == pytest.approx(0.75)
    assert "quota" in verdict.words
    assert "cgroup v2" in verdict.evidence[0]
    assert {one.kind for one in made.remedies} >= {"threads:1", "threads:2"}


def test_cores_that_lie_idle_are_told(tmp_path: Path) -> None:
    made = told(seen(subject(tmp_path), threads=1))
    verdict = next(one for one in made.verdicts if one.kind == "threads")
    assert "Only 1 of the 4 cores" in verdict.words
    assert verdict.share > 0.4
    assert remedy(made, "threads:4").gain > 1.8
    assert "threads" not in shares(told(seen(subject(tmp_path))))


def test_throttling_and_stolen_time_are_told_from_what_the_kernel_counted(tmp_path: Path) -> None:
    plain = seen(subject(tmp_path))
    throttled = as_if_measured(plain, spell=replace(QUIET, throttled_s=4.0))
    assert shares(told(throttled))["throttling"] == pytest.approx(0.4)
    stolen = as_if_measured(plain, spell=replace(QUIET, steal_s=10.0))
    assert shares(told(stolen))["steal"] == pytest.approx(0.25)
    busy = as_if_measured(plain, spell=QUIET, quiet=0.25)
    assert shares(told(busy))["neighbours"] == pytest.approx(0.75)
    assert not {"throttling", "steal", "paging", "neighbours"} & set(
        shares(told(as_if_measured(plain, spell=QUIET)))
    )


def test_swapping_and_a_model_larger_than_memory_are_told(tmp_path: Path) -> None:
    plain = seen(subject(tmp_path))
    swapped = as_if_measured(plain, spell=replace(QUIET, major_faults=1_000_000, swapped_bytes=1 << 30))
    verdict = next(one for one in told(swapped).verdicts if one.kind == "paging")
    assert verdict.share == pytest.approx(1_000_000 * 4096e-9 / 10)
    assert "swapped out" in verdict.words
    small = told(seen(subject(tmp_path), None, machine(memory_bytes=1 << 30)))
    verdict = small.verdicts[0]
    assert verdict.kind == "paging"
    assert "every step would fetch" in verdict.words


def test_a_slow_start_names_its_slowest_phase(tmp_path: Path) -> None:
    loading = LoadingTimes({"read": 0.1, "pack": 30.0, "tokenizer": 0.4}, 1 << 30, major_faults=12)
    made = told(as_if_measured(seen(subject(tmp_path)), loading=loading))
    verdict = next(one for one in made.verdicts if one.kind == "loading")
    assert verdict.of == "start"
    assert "most of it converting and packing" in verdict.words
    assert verdict.evidence[0].startswith("converting and packing")
    assert "12 pages" in verdict.evidence[-1]
    mapped = LoadingTimes({"verify": 2.0, "read": 0.1}, 1 << 30, from_cache=True)
    made = told(as_if_measured(seen(subject(tmp_path)), loading=mapped))
    verdict = next(one for one in made.verdicts if one.kind == "loading")
    assert "1.07 GB of packed weights read at 0.54 GB/s; the disk gives 1 GB/s" in verdict.evidence[-1]
    slow_disk = LoadingTimes({"read": 60.0, "pack": 1.0}, 1 << 30)
    made = told(as_if_measured(seen(subject(tmp_path)), loading=slow_disk))
    verdict = next(one for one in made.verdicts if one.kind == "loading")
    assert "most of it opening the checkpoint" in verdict.words


def test_a_slow_link_eats_what_more_hosts_bring(tmp_path: Path) -> None:
    plain = seen(subject(tmp_path))
    gains = {}
    for name, link in (("fast", Link("peer", 5e-6, 12.0)), ("slow", Link("peer", 2e-3, 0.1))):
        made = told(replace(plain, findings=replace(plain.findings, link=link, hosts=4)))
        gains[name] = remedy(made, "hosts:tensor").gain, shares(made)["communication"]
        assert remedy(made, "hosts:replicas").gain == pytest.approx(1.0)
        assert remedy(made, "hosts:replicas").figures.tokens_per_s == pytest.approx(4 * made.now.tokens_per_s)
    assert gains["fast"][0] > 3.0 > 1.0 > gains["slow"][0]
    assert gains["slow"][1] > 0.8 > gains["fast"][1]


def test_a_measured_gpu_is_a_remedy_where_the_model_fits_it(tmp_path: Path) -> None:
    gpu = Gpu("A fast one", 80 << 30, 3000.0, {"bf16": 800.0})
    made = told(seen(subject(tmp_path), None, machine(gpus=(gpu,))))
    assert remedy(made, "gpu").gain > 5
    assert remedy(made, "gpu").command is None
    tiny = replace(gpu, memory_bytes=1 << 30)
    made = told(seen(subject(tmp_path), None, machine(gpus=(tiny,))))
    assert all(one.kind != "gpu" for one in made.remedies)


@pytest.mark.parametrize("target", ["ttft", "tpot", "throughput", "memory", "cost"])
def test_remedies_are_ranked_by_the_target(tmp_path: Path, target: str) -> None:
    made = told(seen(subject(tmp_path), workload(512, 128, 2), target=target))
    gains = [one.gain for one in made.remedies]
    assert gains == sorted(gains, reverse=True)
    assert all(one.low <= one.gain <= one.high for one in made.remedies)
    q4 = remedy(made, "weights:q4").figures
    wanted = {
        "ttft": made.now.ttft_s / q4.ttft_s,
        "tpot": made.now.tpot_s / q4.tpot_s,
        "throughput": q4.tokens_per_s / made.now.tokens_per_s,
        "memory": made.now.memory_bytes / q4.memory_bytes,
        "cost": made.now.machine_s_per_1k / q4.machine_s_per_1k,
    }
    assert remedy(made, "weights:q4").gain == pytest.approx(wanted[target])


def fake_process(root: Path, *, major: int, swap_kib: int, throttled_us: int, steal: int) -> None:
    for name, text in {
        "proc/self/stat": f"1 (a) b) R 0 0 0 0 0 0 50 0 {major} 0 1 2",
        "proc/self/status": f"VmRSS:\t  100 kB\nVmSwap:\t  {swap_kib} kB\n",
        "proc/meminfo": "MemTotal: 9 kB\nMemAvailable: 7 kB\n",
        "proc/stat": f"cpu  1 2 3 4 5 6 7 {steal} 0 0\ncpu0 1 2 3\n",
        "sys/fs/cgroup/cpu.stat": f"usage_usec 9\nnr_throttled 3\nthrottled_usec {throttled_us}\n",
    }.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)


def test_the_kernels_counters_are_read_and_subtracted(tmp_path: Path) -> None:
    fake_process(tmp_path, major=5, swap_kib=0, throttled_us=1_000_000, steal=100)
    before = read_process(tmp_path)
    fake_process(tmp_path, major=25, swap_kib=64, throttled_us=3_500_000, steal=300)
    after = replace(read_process(tmp_path), at_s=before.at_s + 10.0)
    found = between(before, after)
    assert (found.seconds, found.major_faults, found.swapped_bytes) == (pytest.approx(10.0), 20, 64 * 1024)
    assert found.throttled_s == pytest.approx(2.5)
    assert found.steal_s == pytest.approx(200 / os.sysconf("SC_CLK_TCK"))
    assert found.available_bytes == 7 * 1024


def test_what_the_kernel_does_not_tell_stays_unknown(tmp_path: Path) -> None:
    nothing = read_process(tmp_path)
    assert nothing == Readings(nothing.at_s, None, None, None, None, None, None)
    assert between(nothing, nothing).major_faults is None
