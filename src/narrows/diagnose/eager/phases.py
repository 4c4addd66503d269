"""A Run as a PhaseReport: the profile's shares on the wall time, every group against its ceiling.

In: Run, EagerCeilings. Out: PhaseReport. Groups and what lies outside of them add up to the wall time. Bytes
of a group are those its operators read; copies and elementwise work are held against all they move.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from narrows.diagnose.eager.groups import GROUPS, Group
from narrows.diagnose.eager.seen import Counts, EagerCeilings, Run
from narrows.diagnose.roofline import NEAR
from narrows.report import Ceiling, OpReport, PhaseReport

PRODUCTS: Final = ("matrices", "attention")  # held against arithmetic, too


def group_seconds(run: Run) -> tuple[dict[Group, float], float]:
    """(seconds by group, seconds outside of all) of one unit; nothing by group where there is no profile.

    On a GPU the groups are its own time: outside is what it waited.
    """
    profile = run.profile
    if profile is None:
        return {}, run.wall_s
    inside = sum(profile.seconds.values())
    # A GPU's time is not lengthened by the profiler; the CPU's is, and divides as it did there.
    measured = max(inside, run.wall_s if profile.busy_s is not None else profile.wall_s)
    scale = run.wall_s / measured if measured else 0.0
    seconds = {group: profile.seconds.get(group, 0.0) * scale for group in GROUPS}
    return seconds, max(0.0, run.wall_s - sum(seconds.values()))


def phase_of(run: Run, ceilings: EagerCeilings) -> PhaseReport:
    seconds, outside_s = group_seconds(run)
    ops = []
    for group, took in seconds.items():
        counts = run.counts.get(group, Counts())
        if took <= 0 and not counts.calls:
            continue
        ceiling, fraction = nearest(group, counts, took, ceilings)
        share = took / run.wall_s if run.wall_s else 0.0
        ops.append(OpReport(group, took, share, counts.read_bytes, counts.flops, ceiling, fraction))
    return PhaseReport(
        name=run.name,
        seconds=run.wall_s,
        tokens=run.tokens,
        streams=run.streams,
        context=run.context,
        outside_s=outside_s if ops else 0.0,
        source="measured",
        ops=tuple(ops),
    )


def nearest(group: Group, counts: Counts, seconds: float, ceilings: EagerCeilings) -> tuple[Ceiling, float]:
    """(ceiling, fraction of it); small operators find their bytes in a cache."""
    if seconds <= 0:
        return "overhead", 0.0
    moved = counts.read_bytes + (0 if group in PRODUCTS else counts.written_bytes)
    each = moved / max(1, counts.calls)
    is_cached = group not in PRODUCTS and each < ceilings.cache_bytes / 2
    gb_per_s = ceilings.cache_gb_per_s if is_cached else ceilings.gb_per_s
    fractions: Mapping[Ceiling, float] = {
        "memory": moved / seconds / (gb_per_s * 1e9) if gb_per_s else 0.0,
        "compute": counts.flops / seconds / (ceilings.gflop_per_s * 1e9) if ceilings.gflop_per_s else 0.0,
    }
    name = max(fractions, key=lambda ceiling: fractions[ceiling])
    return (name if fractions[name] >= NEAR else "overhead"), fractions[name]
