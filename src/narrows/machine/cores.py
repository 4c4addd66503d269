"""Whether two of our CPUs share one core, told by measurement: then they share one peak.

A hypervisor may present two hyperthreads as two cores, so the kernel's word is not enough. Two threads,
each pinned to its CPU, multiply in registers: alone, and both at once.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from narrows import _core
from narrows.machine.facts import ROOT, cpu_list

TRIES: Final = 8
TRY_S: Final = 4e-3
SHARED_BELOW: Final = 1.5  # own cores give 2, one core between 1 and 1.3
ALL_PAIRS_OF: Final = 4  # CPUs; of more only the pairs that may be siblings are tried

Rate = Callable[[], float]  # work a second of the calling thread


def peak_rate() -> float:
    """int8 multiply-adds per second (1e9) of the calling thread in its registers."""
    return _core.int8_peak(TRY_S, _core.ThreadPool(1))


def candidate_pairs(cpus: Sequence[int], *, root: Path = ROOT) -> list[tuple[int, int]]:
    """Pairs that may share a core: of few CPUs all; of many those that the kernel calls siblings.

    Where it names none: neighbours, and halves apart. Siblings are numbered in one of these ways.
    """
    cpus = sorted(cpus)
    if len(cpus) <= ALL_PAIRS_OF:
        return [(a, b) for i, a in enumerate(cpus) for b in cpus[i + 1 :]]
    told = [(a, b) for a in cpus for b in _siblings(a, root) if a < b and b in cpus]
    return told[:1] or [(cpus[0], cpus[1]), (cpus[0], cpus[len(cpus) // 2])]


def pair_ratio(a: int, b: int, *, rate: Rate = peak_rate, tries: int = TRIES) -> float:
    """Throughput of both CPUs at once, each against itself alone: 2 on own cores, 1 on a shared one.

    The best of several tries counts, alone and together, because a neighbour may take its share of any of
    them. Raises OSError where a CPU cannot be pinned to.
    """
    alone = {a: 0.0, b: 0.0}
    together = {a: 0.0, b: 0.0}
    for _ in range(tries):
        for cpu in (a, b):
            alone[cpu] = max(alone[cpu], _pinned([cpu], rate)[0])
        both = _pinned([a, b], rate)
        if sum(both) > sum(together.values()):
            together = {a: both[0], b: both[1]}
    return sum(together[cpu] / alone[cpu] for cpu in (a, b))


def shared_cores(
    cpus: Sequence[int], *, root: Path = ROOT, ratio: Callable[[int, int], float] = pair_ratio
) -> tuple[bool | None, float | None, str]:
    """(share a core, least ratio of the pairs tried, why unknown)."""
    pairs = candidate_pairs(cpus, root=root)
    if not pairs:
        return None, None, "only one CPU may be used: no pair to compare"
    try:
        least = min(ratio(a, b) for a, b in pairs)
    except OSError as error:
        return None, None, f"a thread could not be pinned to its CPU ({error})"
    return least < SHARED_BELOW, least, ""


def _siblings(cpu: int, root: Path) -> tuple[int, ...]:
    try:
        return cpu_list((root / f"sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list").read_text())
    except (OSError, ValueError):
        return ()


def _pinned(cpus: Sequence[int], rate: Rate) -> list[float]:
    """The rate of one thread on each CPU, all at once."""
    rates = [0.0] * len(cpus)
    failed: list[OSError] = []
    start = threading.Barrier(len(cpus))

    def work(place: int) -> None:
        try:
            os.sched_setaffinity(0, {cpus[place]})  # of this thread alone, which ends here
        except OSError as error:
            failed.append(error)
        start.wait()
        if not failed:
            rates[place] = rate()

    threads = [threading.Thread(target=work, args=(place,)) for place in range(len(cpus))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failed:
        raise failed[0]
    return rates
