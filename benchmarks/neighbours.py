"""How decode speed falls when another process takes part of the cores: in proportion, or worse.

    neighbours.py [FOLDER]      default: the embedded model

One engine with all threads decodes one stream; beside it run processes that only count, pinned to a core, all
the time or half of it in periods of 10 ms. The share of CPU left is what those processes did not take, as the
kernel counts it, of all cores (and what the hypervisor took from all alike, which `alone` shows). Besides: an
engine started on one core (affinity), and one under a cgroup quota of one core, set before it starts and
behind its back; quotas only where this process may make cgroups. Every round asks every situation, in turn.

A proportional engine has (speed / speed alone) / (share left) near 1.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

import shapes
from isa import HERE, spec
from report import machine_facts
from soak_vitals import cpu_seconds
from workers import Worker, WorkerSpec

from narrows import _core
from narrows.models.resolve import resolve_model

ROWS = HERE / "results/neighbours.jsonl"
PERIOD_S = 0.01
QUOTA_PERIOD_US = 100_000
# Counts for `duty` of each period on one core, until its parent is gone.
BUSY = """
import os, sys, time
cpu, duty, period = int(sys.argv[1]), float(sys.argv[2]), float(sys.argv[3])
os.sched_setaffinity(0, {cpu})
parent = os.getppid()
while os.getppid() == parent:
    began = time.perf_counter()
    while duty >= 1 or time.perf_counter() - began < duty * period:
        for _ in range(2000):
            pass
        if time.perf_counter() - began > 1:
            break
    time.sleep(max(0.0, began + period - time.perf_counter()) if duty < 1 else 0)
"""


@dataclass(frozen=True, slots=True)
class Situation:
    """`busy`: (core, duty) of each neighbour. `engine`: which of the engines is asked. `share`: of all CPUs,
    what the engine has by its limits, before neighbours take theirs.
    """

    name: str
    engine: str = "free"
    busy: tuple[tuple[int, float], ...] = ()
    share: float = 1.0


@dataclass(frozen=True, slots=True)
class Asked:
    tokens_per_s: float
    share_left: float


@dataclass(slots=True)
class Found:
    """A value a round."""

    situation: Situation
    asked: list[Asked] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Line:
    """Medians over the rounds; `speed` as a share of the same round's speed alone."""

    model: str
    situation: str
    tokens_per_s: float
    speed: float
    share_left: float
    of_proportional: float  # speed / share_left
    lowest: float  # of of_proportional
    rounds: int


def situations(cores: Sequence[int], quota: bool) -> list[Situation]:
    first, n = cores[0], len(cores)
    found = [
        Situation("alone"),
        Situation("half of one core taken", busy=((first, 0.5),)),
        Situation("one core shared", busy=((first, 1.0),)),
        Situation("all cores shared", busy=tuple((core, 1.0) for core in cores)),
        Situation("affinity of one core", engine="affinity", share=1 / n),
    ]
    if quota:
        found.append(Situation("quota of one core, known", engine="quota", share=1 / n))
        found.append(Situation("quota of one core, set later", engine="late quota", share=1 / n))
    return found


def share_left(share: float, taken_s: float, wall_s: float, num_cores: int) -> float:
    """Of all cores: what the limits allow, less what the neighbours took."""
    return share - taken_s / (wall_s * num_cores)


def summarize(model: str, found: Sequence[Found]) -> list[Line]:
    """The first is the engine alone."""
    alone = found[0].asked
    lines = []
    for one in found:
        speeds = [a.tokens_per_s / b.tokens_per_s for a, b in zip(one.asked, alone, strict=True)]
        of_share = [s / a.share_left for s, a in zip(speeds, one.asked, strict=True)]
        line = Line(
            model=model,
            situation=one.situation.name,
            tokens_per_s=round(statistics.median(a.tokens_per_s for a in one.asked), 2),
            speed=round(statistics.median(speeds), 3),
            share_left=round(statistics.median(a.share_left for a in one.asked), 3),
            of_proportional=round(statistics.median(of_share), 3),
            lowest=round(min(of_share), 3),
            rounds=len(one.asked),
        )
        lines.append(line)
    return lines


def table(lines: Sequence[Line]) -> list[str]:
    texts = [f"{'situation':30} {'tokens/s':>9} {'speed':>6} {'CPU left':>8}  of proportional (lowest)"]
    for line in lines:
        texts.append(
            f"{line.situation:30} {line.tokens_per_s:9.1f} {line.speed:6.2f} {line.share_left:8.2f}  "
            f"{line.of_proportional:.2f} ({line.lowest:.2f})"
        )
    return texts


@contextmanager
def neighbours(busy: Sequence[tuple[int, float]]) -> Iterator[Callable[[], float]]:
    """Runs them; gives a function that says how many CPU seconds they have taken so far."""
    processes = [
        subprocess.Popen([sys.executable, "-c", BUSY, str(core), str(duty), str(PERIOD_S)])
        for core, duty in busy
    ]

    def taken_s() -> float:
        stats = [Path(f"/proc/{process.pid}/stat").read_text() for process in processes]
        return sum(cpu_seconds(stat, os.sysconf("SC_CLK_TCK")) for stat in stats)

    try:
        if processes:
            time.sleep(0.3)  # they are starting
        yield taken_s
    finally:
        for process in processes:
            process.send_signal(signal.SIGKILL)
            process.wait()


@contextmanager
def quota_group() -> Iterator[Path | None]:
    """A cgroup with a quota of one core, v2 or v1; None where this process may not make one."""
    root = Path("/sys/fs/cgroup")
    is_v2 = (root / "cgroup.controllers").exists()
    group = (root if is_v2 else root / "cpu") / f"narrows-neighbours-{os.getpid()}"
    try:
        group.mkdir()
    except OSError:
        yield None
        return
    try:
        if is_v2:
            (group / "cpu.max").write_text(f"{QUOTA_PERIOD_US} {QUOTA_PERIOD_US}")
        else:
            (group / "cpu.cfs_period_us").write_text(str(QUOTA_PERIOD_US))
            (group / "cpu.cfs_quota_us").write_text(str(QUOTA_PERIOD_US))
    except OSError:  # no cpu controller here
        group.rmdir()
        yield None
        return
    try:
        yield group
    finally:
        group.rmdir()  # the engines in it have ended


def start(spec: WorkerSpec, engine: str, group: Path | None, core: int) -> Worker:
    """An engine under the limits of its name. Those it shall know are on the shell that becomes it."""
    command = spec.command
    if engine == "affinity":
        command = ("taskset", "-c", str(core), *command)
    elif engine == "quota":
        command = ("sh", "-c", f'echo $$ > {group}/cgroup.procs && exec "$@"', "sh", *command)
    worker = Worker(WorkerSpec(engine, command, {}))
    if engine == "late quota":
        assert group is not None
        (group / "cgroup.procs").write_text(str(worker.process.pid))
    return worker


def ask(worker: Worker, situation: Situation, ms: int, vocab: int, num_cores: int) -> Asked:
    with neighbours(situation.busy) as taken_s:
        began_s, before_s = time.perf_counter(), taken_s()
        answer = worker.ask("decode", ms=ms, low=vocab // 4, high=vocab)
        wall_s, after_s = time.perf_counter() - began_s, taken_s()
    left = share_left(situation.share, after_s - before_s, wall_s, num_cores)
    return Asked(answer["tokens"] / answer["seconds"], left)


def measure(folder: Path, weights: str, rounds: int, ms: int) -> list[Found]:
    """Raises EngineError where an engine fails."""
    from tqdm import tqdm

    cores = sorted(os.sched_getaffinity(0))
    vocab = shapes.read(folder).vocab
    plain = spec(folder, weights, _core.isa(), 0)  # 0: as many threads as the engine finds worth it
    with ExitStack() as stack:
        group = stack.enter_context(quota_group())
        found = [Found(situation) for situation in situations(cores, group is not None)]
        names = dict.fromkeys(one.situation.engine for one in found)
        engines = {name: stack.enter_context(start(plain, name, group, cores[0])) for name in names}
        for name, engine in engines.items():
            tqdm.write(f"engine '{name}': {engine.hello['threads']} threads")
        for engine in engines.values():
            engine.ask("decode", ms=200, low=vocab // 4, high=vocab)
        bar = stack.enter_context(tqdm(total=rounds * len(found), disable=None))
        for _ in range(rounds):
            for one in found:
                bar.set_description(one.situation.name)
                one.asked.append(ask(engines[one.situation.engine], one.situation, ms, vocab, len(cores)))
                bar.update()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", nargs="?", help="folder; default: the embedded model")
    parser.add_argument("--weights", default="q4")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--ms", type=int, default=1500, help="of decoding in each situation and round")
    parser.add_argument("--rows", type=Path, default=ROWS, help="appended to; default: results/")
    arguments = parser.parse_args()
    if arguments.rounds < 1 or arguments.ms < 1:
        parser.error("--rounds and --ms must be at least 1")
    folder = resolve_model(arguments.model)
    name = "embedded" if arguments.model is None else folder.resolve().name
    found = measure(folder, arguments.weights, arguments.rounds, arguments.ms)
    lines = summarize(name, found)
    print(f"\n{name}, {arguments.weights}, one stream", *table(lines), sep="\n")
    if len(found) == len(situations([0], False)):
        print("no quotas: this process may not make cgroups")
    facts = {"time": int(time.time()), **machine_facts(), "weights": arguments.weights}
    with arguments.rows.open("a") as out:
        out.write("".join(json.dumps({**facts, **asdict(line)}) + "\n" for line in lines))


if __name__ == "__main__":
    main()
