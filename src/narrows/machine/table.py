"""A MachineProfile for the terminal: each figure with what it limits, for a model one can picture.

In: a profile. Out: lines. The picture is a model of 1e9 parameters; its limits are plain quotients of the
figures, no predictions: nothing reaches a ceiling.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from narrows.machine.profile import CacheLevel, Disturbance, Gpu, Link, MachineProfile, Peak

# A model of 1e9 parameters ("1B"), as Llama 3.2 1B: 16 layers of width 2,048.
PARAMETERS: Final = 1e9
FOUR_BIT_BYTES: Final = 0.6e9
HALF_BYTES: Final = 2e9  # in 16 bits
EXCHANGES: Final = 2 * 16  # between two processes that share each layer, a token
EXCHANGE_BYTES: Final = 2048 * 4
DRAM_ROWS: Final = 3
# Above these shares the figures may be too low.
BUSY: Final = {"others": 0.2, "steal": 0.05, "throttled": 0.01, "spread": 0.25}

Row = tuple[str, str, str]  # what, how much, what it limits


def lines(profile: MachineProfile, *, stored: bool = False) -> list[str]:
    """The whole table; `stored`: it was measured at an earlier call."""
    rows = list(_rows(profile))
    widths = [max((len(row[i]) for row in rows), default=0) for i in (0, 1)]
    table = [f"  {what:<{widths[0]}}  {much:>{widths[1]}}  {limits}".rstrip() for what, much, limits in rows]
    return [*_head(profile, stored), "", *table, "", *_foot(profile)]


def _head(profile: MachineProfile, stored: bool) -> Iterator[str]:
    cores = profile.cores
    quota = f"a quota of {cores.quota:g} CPUs ({cores.quota_source})" if cores.quota else "no quota"
    swap = f"{profile.swap_bytes / 1e9:.1f} GB swap" if profile.swap_bytes else "no swap"
    yield (
        f"{cores.model}: {cores.affinity} of {_count(cores.online, 'CPU')} on "
        f"{_count(cores.physical, 'core')}, {quota}, so {_count(cores.threads, 'thread')}"
    )
    yield f"{' '.join(cores.isas)}; {profile.memory_bytes / 1e9:.1f} GB memory, {swap}"
    when = profile.measured_at.replace("T", " ").replace("+00:00", " UTC")
    origin = "; stored: --fresh measures anew" if stored else ""
    yield f"measured {when} in {profile.seconds:.1f} s{origin}"


def _rows(profile: MachineProfile) -> Iterator[Row]:
    cores = profile.cores
    if cores.shared_cores_ratio is not None:
        yield (
            "two CPUs at once",
            f"{cores.shared_cores_ratio:.2f} x one",
            "two share a core: more threads than cores add little"
            if cores.shared_cores
            else "each has a core of its own: threads add up",
        )
    yield from _dram_rows(profile)
    best = max(profile.dram_gb_per_s, default=0.0)
    for cache in profile.caches:
        yield _cache_row(cache, best)
    for i, peak in enumerate(profile.peaks):
        yield from _peak_rows(peak, in_use=i == 0)
    yield from _disk_rows(profile)
    for link in profile.links:
        yield _link_row(link)
    for gpu in profile.gpus:
        yield from _gpu_rows(gpu)


def _dram_rows(profile: MachineProfile) -> Iterator[Row]:
    counts = profile.dram_threads or tuple(range(1, len(profile.dram_gb_per_s) + 1))
    pairs = list(zip(counts, profile.dram_gb_per_s, strict=True))
    if len(pairs) > DRAM_ROWS:  # the first, the best of those between, the last; JSON has all
        pairs = [pairs[0], max(pairs[1:-1], key=lambda pair: pair[1]), pairs[-1]]
    for threads, rate in pairs:
        yield (
            f"DRAM read, {_count(threads, 'thread')}",
            f"{_figure(rate)} GB/s",
            f"decode: 1B in 4 bits, 0.6 GB a token: at most {rate * 1e9 / FOUR_BIT_BYTES:.0f} tokens/s",
        )


def _cache_row(cache: CacheLevel, dram: float) -> Row:
    size = f"{cache.size_bytes / (1 << 20):g} MiB"
    times = f", {cache.gb_per_s / dram:.1f} x DRAM" if cache.gb_per_s and dram else ""
    limits = "what prefill reads again and again" if cache.level == 2 else f"decode of models below {size}"
    return f"L{cache.level} read, {size}", f"{_figure(cache.gb_per_s)} GB/s", limits + times


def _peak_rows(peak: Peak, *, in_use: bool) -> Iterator[Row]:
    if not in_use:
        both = f"{_figure(peak.int8_gmac_per_s)} / {_figure(peak.fp32_gmac_per_s)} GMAC/s"
        yield f"int8 / fp32, {peak.isa}", both, f"the same with NARROWS_ISA={peak.isa}"
        return
    for name, rate, weights in (
        ("int8", peak.int8_gmac_per_s, "8- and 4-bit"),
        ("fp32", peak.fp32_gmac_per_s, "float"),
    ):
        most = rate * 1e9 / PARAMETERS
        limits = f"prefill: 1B in {weights} weights: at most {most:.0f} tokens/s"
        yield f"{name} multiply-adds, {peak.isa}", f"{_figure(rate)} GMAC/s", limits


def _disk_rows(profile: MachineProfile) -> Iterator[Row]:
    disk = profile.disk
    if disk is None:
        return
    for name, rate, num_bytes, start in (
        (
            "disk read, cold",
            disk.gb_per_s,
            HALF_BYTES,
            "first start: 1B in 16 bits, 2 GB",
        ),
        (
            "disk read, page cache",
            disk.cached_gb_per_s,
            FOUR_BIT_BYTES,
            "later starts: 1B in 4 bits, 0.6 GB",
        ),
    ):
        if rate is not None:
            yield name, f"{_figure(rate)} GB/s", f"{start}: at least {num_bytes / (rate * 1e9):.2f} s"


def _link_row(link: Link) -> Row:
    each_s = link.latency_s + EXCHANGE_BYTES / (link.gb_per_s * 1e9)
    return (
        f"link, {link.peer}",
        f"{link.latency_s * 1e6:.0f} us + n / {_figure(link.gb_per_s)} GB/s",
        f"1B in two processes, {EXCHANGES} messages of 8 KB a token: {EXCHANGES * each_s * 1e3:.1f} ms",
    )


def _gpu_rows(gpu: Gpu) -> Iterator[Row]:
    most = gpu.gb_per_s * 1e9 / HALF_BYTES
    yield (
        f"{gpu.name}, {gpu.memory_bytes / 1e9:.0f} GB",
        f"{_figure(gpu.gb_per_s)} GB/s",
        f"decode: 1B in 16 bits, 2 GB a token: at most {most:.0f} tokens/s",
    )
    for name, rate in gpu.tflop_per_s.items():
        limits = f"prefill: 1B: at most {rate * 1e12 / (2 * PARAMETERS):.0f} tokens/s"
        yield f"  {name} products", f"{_figure(rate)} TFLOP/s", limits


def _foot(profile: MachineProfile) -> Iterator[str]:
    shares = _shares(profile.disturbance)
    if shares:
        yield "while measuring: " + ", ".join(text for text, _ in shares)
    if any(busy for _, busy in shares):
        yield "The machine was busy: its figures may be too low. 'narrows machine --fresh' measures anew."
    for name, why in profile.unknown.items():
        yield f"unknown: {name}: {why}"


def _shares(seen: Disturbance) -> list[tuple[str, bool]]:
    """What was seen, in words, and whether it is too much."""
    found = []
    for name, share, words in (
        ("others", seen.others_share, "{} of our CPUs used by others"),
        ("steal", seen.steal_share, "{} stolen"),
        ("throttled", seen.throttled_share, "{} throttled"),
        ("spread", seen.spread, "DRAM median {} below its best"),
    ):
        if share is not None:
            found.append((words.format(f"{share:.0%}"), share > BUSY[name]))
    return found


def _figure(value: float | None) -> str:
    """Three significant digits at most."""
    if value is None:
        return "?"
    return f"{value:.0f}" if value >= 99.95 else f"{value:.1f}" if value >= 9.995 else f"{value:.2f}"


def _count(number: int, name: str) -> str:
    return f"{number} {name}" + ("" if number == 1 else "s")
