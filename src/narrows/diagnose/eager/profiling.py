"""Times a unit of torch's work, profiles it, counts it.

In: torch, a Unit. Out: Run. Wall time comes from units without the profiler, whose own cost would be counted
otherwise; the profile only says how that time divides. Counting is a third pass: operators are intercepted
below autograd and read for their shapes.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping
from dataclasses import replace
from types import ModuleType
from typing import Any, Final

from narrows.diagnose.eager.counting import count
from narrows.diagnose.eager.groups import GROUPS, Group, group_of, is_launch, is_synchronising, plain_name
from narrows.diagnose.eager.seen import Counts, Profile, Run, Unit
from narrows.report import QUIET

PATIENCE: Final = 3  # times as long, while others are on the cores
TENTH: Final = 10  # a tenth of the units, the fastest, is what is told of
MOST_UNITS: Final = 400
LEAST_UNITS: Final = 3
PROFILED: Final = 5  # units, each alone under the profiler; the fastest counts
PROFILED_S: Final = 6.0
SLOW_S: Final = 5.0  # a unit that takes longer is timed twice


def once(torch: ModuleType, unit: Unit, *, is_cuda: bool = False) -> Run:
    """Warm, then timed a single time: what an interrupt leaves."""
    _timed(torch, unit, is_cuda)
    wall_s, main = _timed(torch, unit, is_cuda)
    return Run(unit.name, wall_s, 1, unit.tokens, unit.streams, unit.context, main_thread=main)


def timed(torch: ModuleType, unit: Unit, first: Run, *, work_s: float, is_cuda: bool = False) -> Run:
    """The median of the fastest tenth of as many units as fit `work_s`."""
    found: list[tuple[float, float]] = [(first.wall_s, first.main_thread)]
    began_s = time.perf_counter()
    least = 2 if first.wall_s > SLOW_S else LEAST_UNITS
    while True:
        fastest = sorted(found)[: -(-len(found) // TENTH)]
        spent_s = time.perf_counter() - began_s
        is_quiet = is_cuda or max(share for _, share in fastest) >= QUIET
        is_over = len(found) >= MOST_UNITS or spent_s >= work_s * (1 if is_quiet else PATIENCE)
        if is_over and len(found) >= least:
            break
        found.append(_timed(torch, unit, is_cuda))
    wall_s = statistics.median(seconds for seconds, _ in fastest)
    main = statistics.median(share for _, share in fastest)
    return replace(first, wall_s=wall_s, num_timed=len(found), main_thread=main)


def profiled(
    torch: ModuleType, unit: Unit, run: Run, *, is_language_model: bool, is_cuda: bool = False
) -> Run:
    """The run with its fastest profile and its counts."""
    profiles: list[Profile] = []
    began_s = time.perf_counter()
    while not profiles or (len(profiles) < PROFILED and time.perf_counter() - began_s < PROFILED_S):
        profiles.append(_profile(torch, unit, is_language_model, is_cuda))
    best = min(profiles, key=lambda profile: profile.wall_s)
    counts, dense = count(torch, unit, is_language_model=is_language_model)
    if best.seconds.get("matrices") and not counts.get("matrices", Counts()).flops:
        counts = {**counts, "matrices": _fused(torch, unit)}
    return replace(run, profile=best, counts=counts, dense_flops=dense)


def _fused(torch: ModuleType, unit: Unit) -> Counts:
    """Products within one operator, which only the profiler sees: their FLOPs, not their bytes."""
    activities = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities, with_flops=True, record_shapes=True) as profiler:
        unit.run()
    if unit.reset is not None:
        unit.reset()
    found = [flops for event in profiler.events() if (flops := _event_flops(event))]
    return Counts(len(found), sum(found))


def _event_flops(event: Any) -> int:  # noqa: ANN401
    """The profiler's own figure; a product with its activation has none: [bias, [m, k], [k, n]]."""
    if plain_name(event.name) == "_addmm_activation" and len(event.input_shapes) > 2:
        (rows, depth), (_, width) = event.input_shapes[1:3]
        return 2 * int(rows) * int(depth) * int(width)
    return int(event.flops or 0)


def _timed(torch: ModuleType, unit: Unit, is_cuda: bool) -> tuple[float, float]:
    """(seconds, share of them that this thread was on a core)."""
    _wait(torch, is_cuda)
    on_core, began_s = time.thread_time(), time.perf_counter()
    unit.run()
    _wait(torch, is_cuda)
    seconds, on_core = time.perf_counter() - began_s, time.thread_time() - on_core
    if unit.reset is not None:
        unit.reset()
    return seconds, min(1.0, on_core / max(seconds, 1e-9))


def _wait(torch: ModuleType, is_cuda: bool) -> None:
    if is_cuda:
        torch.cuda.synchronize()


def _profile(torch: ModuleType, unit: Unit, is_language_model: bool, is_cuda: bool) -> Profile:
    activities = [torch.profiler.ProfilerActivity.CPU]
    if is_cuda:
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    _wait(torch, is_cuda)
    with torch.profiler.profile(activities=activities) as profiler:
        began_s = time.perf_counter()
        unit.run()
        _wait(torch, is_cuda)
        wall_s = time.perf_counter() - began_s
    if unit.reset is not None:
        unit.reset()
    return table(profiler.events(), wall_s, is_language_model=is_language_model, is_cuda=is_cuda)


def table(events: Any, wall_s: float, *, is_language_model: bool, is_cuda: bool = False) -> Profile:  # noqa: ANN401
    """Self times by group, of the calling thread: the one with the most of them.

    `events`: FunctionEvents of torch.profiler. On a GPU, its own time of each operator instead.
    """
    by_thread: dict[Any, dict[Group, float]] = {}
    calls, launches, syncs = 0, 0, 0
    for event in events:
        launches += is_launch(event.name)
        syncs += is_synchronising(event.name)
        group = group_of(_names(event), is_language_model=is_language_model)
        if group is None:
            continue
        calls += (
            event.cpu_parent is None
            or group_of(_names(event.cpu_parent), is_language_model=is_language_model) is None
        )
        took = event.self_device_time_total if is_cuda else event.self_cpu_time_total
        mine = by_thread.setdefault(event.thread, {})
        mine[group] = mine.get(group, 0.0) + took * 1e-6
    threads_seen = sum(1 for mine in by_thread.values() if sum(mine.values()) > 0.1 * wall_s) or 1
    seconds = _merged(by_thread) if is_cuda else max(by_thread.values(), key=_total, default={})
    full: dict[Group, float] = {group: seconds.get(group, 0.0) for group in GROUPS}
    busy_s = _total(full) if is_cuda else None
    return Profile(wall_s, full, calls, threads_seen, launches, syncs, busy_s)


def _names(event: Any) -> list[str]:  # noqa: ANN401
    """Its own, then its callers'."""
    names = []
    while event is not None:
        names.append(str(event.name))
        event = event.cpu_parent
    return names


def _total(seconds: Mapping[Group, float]) -> float:
    return sum(seconds.values())


def _merged(by_thread: Mapping[Any, Mapping[Group, float]]) -> dict[Group, float]:
    found: dict[Group, float] = {}
    for mine in by_thread.values():
        for group, seconds in mine.items():
            found[group] = found.get(group, 0.0) + seconds
    return found
