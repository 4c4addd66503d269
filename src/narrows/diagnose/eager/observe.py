"""Times the units of a service in turn, profiles them, measures the ceilings beside them.

In: units, the machine's profile. Out: Seen. First every unit is timed once; from then on an interrupt keeps
what there is: Ctrl-C ends in a report that says what is missing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Final

from narrows.diagnose.eager.ceilings import measure_ceilings, stored_ceilings
from narrows.diagnose.eager.findings import EagerFindings
from narrows.diagnose.eager.profiling import once, profiled, timed
from narrows.diagnose.eager.seen import EagerCeilings, Name, Run, Service, Unit
from narrows.diagnose.process import Spell, between, read_process
from narrows.machine.profile import MachineProfile
from narrows.report import QUIET

WORK_S: Final = 3.0  # of one unit without the profiler

Tell = Callable[[str], None]
MakeFindings = Callable[[Mapping[Name, Run], EagerCeilings, Spell], EagerFindings]


@dataclass(frozen=True, slots=True)
class Timing:
    """What timing needs beside the units."""

    torch: ModuleType
    profile: MachineProfile
    service: Service
    tell: Tell


@dataclass(frozen=True, slots=True)
class Seen:
    findings: EagerFindings
    notes: tuple[str, ...] = ()
    is_interrupted: bool = False


def observe(
    timing: Timing, makers: Sequence[Callable[[], Unit]], make: MakeFindings, *, work_s: float = WORK_S
) -> Seen:
    """`makers`: each makes its unit when its turn comes, which may take as long as a prompt."""
    torch, service = timing.torch, timing.service
    is_cuda, is_model = service.device == "cuda", service.is_language_model
    runs: dict[Name, Run] = {}
    units: list[Unit] = []
    ceilings: EagerCeilings | None = None
    is_interrupted = False
    before = read_process()
    for maker in makers:
        timing.tell("running each unit once")
        units.append(maker())
        runs[units[-1].name] = once(torch, units[-1], is_cuda=is_cuda)
    try:
        for unit in units:
            timing.tell(f"timing {unit.name}")
            runs[unit.name] = timed(torch, unit, runs[unit.name], work_s=work_s, is_cuda=is_cuda)
        for unit in units:
            timing.tell(f"profiling {unit.name}")
            run = runs[unit.name]
            runs[unit.name] = profiled(torch, unit, run, is_language_model=is_model, is_cuda=is_cuda)
        timing.tell("measuring ceilings")
        ceilings = measure_ceilings(torch, service, timing.profile)
    except KeyboardInterrupt:
        is_interrupted = True
    near = ceilings or stored_ceilings(service, timing.profile)
    findings = make(runs, near, between(before, read_process()))
    return Seen(findings, _notes(findings, is_interrupted), is_interrupted)


def _is_fused(run: Run) -> bool:
    counts = run.counts.get("matrices")
    return counts is not None and counts.flops > 0 and not counts.read_bytes


def _notes(findings: EagerFindings, is_interrupted: bool) -> tuple[str, ...]:
    notes = [
        "times are of units without the profiler, the median of the fastest tenth; the profiler's shares "
        "divide them, "
        "and its own cost lies a little heavier on small operators",
        *findings.service.notes,
    ]
    fused = [name for name, run in findings.runs.items() if _is_fused(run)]
    if fused:
        notes.append(
            f"in {', '.join(fused)} torch runs products within larger operators: their bytes are not known"
        )
    if is_interrupted:
        missing = [name for name, run in findings.runs.items() if run.profile is None]
        what = f"; not profiled: {', '.join(missing)}" if missing else "; ceilings are of the stored profile"
        notes.append(f"interrupted: this is what was measured until then{what}")
    if findings.service.device == "cpu" and any(run.main_thread < QUIET for run in findings.runs.values()):
        notes.append(
            "others were on the cores: gains look larger than they are when quiet; the lower ends of "
            "Narrows' count only time on a core"
        )
    if findings.workload is not None and findings.workload.streams > 1:
        notes.append(
            "streams run as a static batch, as generate() does it; their prompts are taken to need as long "
            "as one after "
            "another"
        )
    if findings.workload is not None:
        notes.append("tokens are chosen by argmax; what generate() does around a step is not in these times")
        if findings.workload.scaled != 1.0:
            notes.append(
                f"all lengths of the workload were multiplied by {findings.workload.scaled:.3g} to fit"
            )
    return tuple(notes)
