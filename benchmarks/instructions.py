"""Instructions of the hot kernels per unit of their work, recorded, so that code that became slower is
seen on a machine whose clocks say nothing.

    instructions.py                    counts on every instruction set of this CPU (minutes) and records
    instructions.py --compare          counts again and says which kernel grew; exit code 1 where one did
    instructions.py --isa avx2 ...     only these; the records of the others stay

cpp/bench/count_kernels.cpp counts by single steps: exact, and the same whatever else runs. The units: a
byte of packed weights, a (query, key) pair of one head, a float, a drawn token. Counts belong to a
compiler; another one may move them by a few per cent without anything having changed. They say nothing of
cache misses and waiting.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

HERE = Path(__file__).parent
ROWS = HERE / "results/instructions.jsonl"
BUILD = HERE.parent / "build/bench"
DRIVER = "count_kernels"
ISAS = ("avx512vnni", "avx2", "generic")
GROWTH = 0.03  # of the instructions: from here on a kernel has become slower


@dataclass(frozen=True, slots=True)
class Count:
    """`instructions` of one call that did `units` of work."""

    kernel: str
    isa: str
    unit: str
    units: int
    instructions: int
    compiler: str

    @property
    def key(self) -> tuple[str, str]:
        return self.isa, self.kernel

    @property
    def per_unit(self) -> float:
        return self.instructions / self.units


@dataclass(frozen=True, slots=True)
class Comparison:
    """What changed since the record; each is (before, now) or one of them."""

    grown: list[tuple[Count, Count]]
    shrunk: list[tuple[Count, Count]]
    gone: list[Count]  # recorded on an instruction set that was counted, and not counted
    new: list[Count]
    compilers: tuple[str, str] | None  # (before, now) where they differ

    @property
    def is_worse(self) -> bool:
        return bool(self.grown or self.gone)


def compare(before: Sequence[Count], now: Sequence[Count], *, growth: float = GROWTH) -> Comparison:
    """By instructions per unit. Records of instruction sets that were not counted now are left out."""
    counted = {count.isa for count in now}
    old = {count.key: count for count in before if count.isa in counted}
    new = {count.key: count for count in now}
    pairs = [(old[key], new[key]) for key in new if key in old]
    compilers = sorted({(a.compiler, b.compiler) for a, b in pairs if a.compiler != b.compiler})
    return Comparison(
        grown=[(a, b) for a, b in pairs if b.per_unit > a.per_unit * (1 + growth)],
        shrunk=[(a, b) for a, b in pairs if b.per_unit < a.per_unit * (1 - growth)],
        gone=[count for key, count in old.items() if key not in new],
        new=[count for key, count in new.items() if key not in old],
        compilers=compilers[0] if compilers else None,
    )


def spread(runs: Sequence[Sequence[Count]]) -> float:
    """The largest (highest - lowest) / lowest of any kernel over the runs; 0 of one run."""
    found: dict[tuple[str, str], list[int]] = {}
    for run in runs:
        for count in run:
            found.setdefault(count.key, []).append(count.instructions)
    return max((max(counts) / min(counts) - 1 for counts in found.values()), default=0.0)


def as_counts(lines: Iterable[str]) -> Iterator[Count]:
    for line in lines:
        if line.strip():
            values = json.loads(line)
            yield Count(**{name: values[name] for name in Count.__slots__})


def build(folder: Path) -> Path:
    """Configures and builds the driver as `make bench` does; returns its path. Raises SystemExit."""
    beside = Path(sys.executable).parent
    path = f"{beside}{os.pathsep}{os.environ.get('PATH', '')}"
    cmake = shutil.which("cmake", path=path)
    if cmake is None:
        raise SystemExit("cmake is missing; `pip install cmake ninja`, or give a built driver with --driver")
    environment = {**os.environ, "PATH": path}
    configure = [cmake, "-S", str(HERE.parent), "-B", str(folder), "-DNARROWS_BENCH=ON"]
    if not (folder / "CMakeCache.txt").exists() and shutil.which("ninja", path=path):
        configure += ["-G", "Ninja"]
    for command in (configure, [cmake, "--build", str(folder), "--target", DRIVER]):
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"{' '.join(command)} failed:\n{done.stdout[-3000:]}{done.stderr[-3000:]}")
    return folder / "cpp" / DRIVER


def count(driver: Path, isas: Sequence[str], expected: int | None) -> list[Count]:
    """Runs the driver, kernel by kernel under a progress bar. Raises SystemExit with what it said."""
    from tqdm import tqdm

    counts: list[Count] = []
    process = subprocess.Popen([str(driver), *isas], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    with process.stdout, tqdm(total=expected, unit="kernel", disable=None) as bar:
        for found in as_counts(process.stdout):
            counts.append(found)
            bar.set_description(f"{found.isa}: {found.kernel}")
            bar.update()
    if process.wait():
        raise SystemExit(f"{driver.name} ended with {process.returncode}; see its message above")
    return counts


def table(counts: Sequence[Count]) -> list[str]:
    """A line a kernel, the instruction sets side by side."""
    isas = [isa for isa in ISAS if any(count.isa == isa for count in counts)]
    lines = [f"{'instructions per':34} {'':12}" + "".join(f" {isa:>12}" for isa in isas)]
    by_key = {count.key: count for count in counts}
    for kernel, unit in dict.fromkeys((count.kernel, count.unit) for count in counts):
        cells = [by_key.get((isa, kernel)) for isa in isas]
        figures = "".join(f" {'':12}" if cell is None else f" {cell.per_unit:12.4g}" for cell in cells)
        lines.append(f"{kernel:34} {unit:12}{figures}")
    return lines


def change(before: Count, now: Count) -> str:
    figures = f"{before.per_unit:.4g} -> {now.per_unit:.4g} per {now.unit}"
    return f"{now.isa:10} {now.kernel:34} {figures} ({now.per_unit / before.per_unit - 1:+.1%})"


def report(found: Comparison) -> list[str]:
    lines = [f"GREW     {change(*pair)}" for pair in found.grown]
    lines += [f"shrank   {change(*pair)}" for pair in found.shrunk]
    lines += [f"GONE     {count.isa:10} {count.kernel}" for count in found.gone]
    lines += [f"new      {count.isa:10} {count.kernel}" for count in found.new]
    if found.compilers is not None:
        lines.append("another compiler: recorded with {}, counted with {}".format(*found.compilers))
    if found.is_worse:
        lines.append("if that is meant, record it: benchmarks/instructions.py without --compare")
    return lines or ["no kernel changed by more than its share"]


def record(counts: Sequence[Count], runs: int, widest: float, target: Path) -> None:
    """Replaces the rows of the instruction sets that were counted."""
    counted = {count.isa for count in counts}
    kept = target.read_text().splitlines() if target.exists() else []
    lines = [line for line in kept if json.loads(line)["isa"] not in counted]
    facts = {"time": int(time.time()), "runs": runs, "spread": round(widest, 6)}
    lines += [
        json.dumps({**facts, **asdict(count), "per_unit": float(f"{count.per_unit:.6g}")}) for count in counts
    ]
    target.write_text("\n".join(lines) + "\n")


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--compare", action="store_true", help="with the record, which stays as it is")
    parser.add_argument("--growth", type=float, default=GROWTH, help="that fails; default: %(default)s")
    parser.add_argument("--isa", nargs="+", choices=ISAS, default=[], help="default: all of this CPU")
    parser.add_argument("--runs", type=int, default=1, help="counts so often and says how much they differ")
    parser.add_argument("--driver", type=Path, help="a built count_kernels; default: built in build/bench")
    parser.add_argument("--rows", type=Path, default=ROWS, help="the record; default: results/")
    arguments = parser.parse_args()
    if arguments.runs < 1:
        parser.error("--runs must be at least 1")
    before = list(as_counts(arguments.rows.read_text().splitlines())) if arguments.rows.exists() else []
    if arguments.compare and not before:
        raise SystemExit(f"{arguments.rows} has no record yet; run without --compare first")
    driver = arguments.driver or build(BUILD)
    expected = sum(not arguments.isa or count.isa in arguments.isa for count in before) or None
    runs = [count(driver, arguments.isa, expected) for _ in range(arguments.runs)]
    now, widest = runs[-1], spread(runs)
    print(*table(now), sep="\n")
    if arguments.runs > 1:
        print(f"the widest spread over {arguments.runs} runs: {widest:.3%}")
    if before:
        found = compare(before, now, growth=arguments.growth)
        print(*report(found), sep="\n")
        if arguments.compare:
            return int(found.is_worse)
    record(now, arguments.runs, widest, arguments.rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
