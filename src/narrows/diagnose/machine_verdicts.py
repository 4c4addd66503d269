"""Verdicts on what surrounds the model: its start, threads and containers, memory, links between hosts.

In: Findings. Out: Verdicts whose share is of the first request after a start, or of a request.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Final

from narrows.diagnose.findings import Findings
from narrows.diagnose.hosts import all_reduce_seconds
from narrows.diagnose.loading import PHASES
from narrows.report import QUIET, Verdict
from narrows.runners.memory import shown_bytes

LEAST_SHARE: Final = 0.02
PAGE_BYTES: Final = 4096
FAULT_S: Final = 1e-4  # of a page from an SSD where no disk was measured
THROTTLED: Final = 0.01  # of the time measured
STOLEN: Final = 0.05  # of the CPUs' time


def machine_verdicts(findings: Findings) -> list[Verdict]:
    return [
        *_loading(findings),
        *_threads(findings),
        *_disturbed(findings),
        *_memory(findings),
        *_communication(findings),
    ]


def _loading(findings: Findings) -> Iterator[Verdict]:
    loading = findings.loading
    if loading is None:
        return
    figures = findings.figures
    request_s = figures.ttft_s + (findings.setup.output - 1) * figures.tpot_s
    share = loading.total_s / (loading.total_s + request_s)
    if share < LEAST_SHARE:
        return
    phases = sorted(loading.seconds.items(), key=lambda item: -item[1])
    first = PHASES[phases[0][0]]
    kind = "packed before and found on disk" if loading.from_cache else "packed for the first time"
    words = (
        f"A start takes {loading.total_s:.2g} s before the first request, most of it {first}; the "
        f"weights were {kind}."
    )
    evidence = [f"{PHASES[name]}: {seconds * 1e3:,.3g} ms" for name, seconds in phases if seconds > 1e-5]
    read_s, disk = loading.seconds.get("verify", 0.0), findings.profile.disk
    if loading.from_cache and read_s > 0:
        gb_per_s = loading.packed_bytes / read_s / 1e9
        rate = f"{shown_bytes(loading.packed_bytes)} of packed weights read at {gb_per_s:.2g} GB/s"
        if disk is not None and disk.gb_per_s is not None:
            rate += f"; the disk gives {disk.gb_per_s:.2g} GB/s"
            rate += f", the page cache {disk.cached_gb_per_s:.2g}" if disk.cached_gb_per_s else ""
        evidence.append(rate)
    if loading.major_faults:
        evidence.append(f"{loading.major_faults:,} pages came from disk")
    yield Verdict("loading", share, "start", words, tuple(evidence))


def _threads(findings: Findings) -> Iterator[Verdict]:
    setup, cores = findings.setup, findings.profile.cores
    granted = min(cores.affinity, cores.physical, cores.quota or cores.affinity)
    evidence = [
        f"{setup.threads} threads in use; affinity {cores.affinity} of {cores.online} CPUs, "
        f"{cores.physical} physical cores, "
        + ("no quota" if cores.quota is None else f"a quota of {cores.quota:g} CPUs ({cores.quota_source})")
    ]
    if cores.shared_cores:
        evidence.append(
            f"two of our CPUs share a core: together they do {cores.shared_cores_ratio or 1:.2f} times the "
            "work of one"
        )
    if setup.threads > granted:
        share = 1 - granted / setup.threads
        why = "the quota stops them" if cores.quota == granted else "they take turns on a core"
        words = (
            f"More threads ({setup.threads}) than this process may use at once ({granted:g}): {why}, and at "
            "every barrier all wait for the last."
        )
        yield Verdict("threads", share, "request", words, tuple(evidence))
    elif setup.threads < int(granted):
        more = replace(setup, threads=int(granted))
        now, then = findings.figures, findings.predictor.figures(more)
        length = setup.output - 1
        share = 1 - (then.ttft_s + length * then.tpot_s) / (now.ttft_s + length * now.tpot_s)
        if share >= LEAST_SHARE:
            words = f"Only {setup.threads} of the {int(granted)} cores that this process may use are used."
            yield Verdict("threads", share, "request", words, tuple(evidence))


def _disturbed(findings: Findings) -> Iterator[Verdict]:
    if findings.quiet < QUIET:
        words = (
            f"Something else uses these cores: this process got {findings.quiet:.0%} of the CPU time that "
            "its threads asked for, and all other figures are as good as that."
        )
        yield Verdict("neighbours", 1 - findings.quiet, "request", words)
    spell = findings.spell
    if spell is None or spell.seconds <= 0:
        return
    throttled = (spell.throttled_s or 0.0) / spell.seconds
    if throttled >= THROTTLED:
        words = (
            "The container's CPU quota stopped this process while it was measured: give it a larger quota or "
            "fewer threads."
        )
        evidence = (f"{spell.throttled_s:.2g} s stopped in {spell.seconds:.2g} s",)
        yield Verdict("throttling", min(1.0, throttled), "request", words, evidence)
    stolen = (spell.steal_s or 0.0) / spell.seconds / max(1, findings.profile.cores.online)
    if stolen >= STOLEN:
        words = "The hypervisor gave CPU time of this machine to others while it was measured."
        yield Verdict("steal", stolen, "request", words, (f"{stolen:.0%} of the CPUs' time",))


def _memory(findings: Findings) -> Iterator[Verdict]:
    spell, setup = findings.spell, findings.setup
    memory_bytes = findings.profile.memory_bytes
    disk = findings.profile.disk
    page_s = PAGE_BYTES / (disk.gb_per_s * 1e9) if disk is not None and disk.gb_per_s else FAULT_S
    faults = (spell.major_faults or 0) if spell is not None else 0
    swapped = (spell.swapped_bytes or 0) if spell is not None else 0
    over = setup.memory_bytes - memory_bytes
    if over > 0:
        # A step walks through all of it: what does not fit comes from disk every time.
        wait_s = over / PAGE_BYTES * page_s
        share = wait_s / (wait_s + findings.phases["decode"].seconds)
        words = (
            f"The model and its pages need {shown_bytes(setup.memory_bytes)}, the machine has "
            f"{shown_bytes(memory_bytes)}: every step would fetch what does not fit from disk."
        )
        yield Verdict("paging", share, "request", words, (f"{shown_bytes(over)} too much",))
    elif spell is not None and (swapped or faults):
        share = min(1.0, faults * page_s / spell.seconds) if spell.seconds > 0 else 0.0
        if share < LEAST_SHARE and not swapped:
            return
        words = (
            "Memory is short: pages of this process came from disk while it ran"
            + (f", and {shown_bytes(swapped)} of it are swapped out" if swapped else "")
            + ". Fewer bits a weight, less --kv-memory or fewer streams free some."
        )
        yield Verdict("paging", share, "request", words, (f"{faults:,} pages read from disk",))


def _communication(findings: Findings) -> Iterator[Verdict]:
    """By arithmetic alone: what tensor parallel ranks would say to each other over the given link."""
    link, setup = findings.link, findings.setup
    if link is None or findings.hosts < 2:
        return
    said_s = all_reduce_seconds(setup, link, findings.hosts, rows=setup.streams)
    step_s = findings.phases["decode"].seconds / findings.hosts + said_s
    words = (
        f"Split over {findings.hosts} hosts, ranks would talk for {said_s * 1e3:,.3g} ms of a decode step of "
        f"{step_s * 1e3:,.3g} ms (by arithmetic; nothing was run)."
    )
    evidence = (f"{link.peer}: {link.latency_s * 1e6:,.3g} us and {link.gb_per_s:.3g} GB/s",)
    yield Verdict("communication", said_s / step_s, "request", words, evidence)
