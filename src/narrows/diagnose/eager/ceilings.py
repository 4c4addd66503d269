"""The ceilings that torch's time is laid against, measured beside it on the same machine.

In: torch, a Service, the machine's profile. Out: EagerCeilings. Bandwidth is read by our own core with as
many threads as torch has; the arithmetic peak is the hardware's as our core measured it, or what torch's own
products reach where that is more (number formats with units of their own).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from types import ModuleType
from typing import Any, Final

from narrows.diagnose.eager.seen import EagerCeilings, Rate, Service
from narrows.diagnose.measured import MeasuredCeilings
from narrows.machine.facts import read_facts
from narrows.machine.gpus import GpuBudget, measure_gpu
from narrows.machine.profile import Cores, Gpu, MachineProfile

SIDE: Final = 768  # of the square matrices: all three fit the caches, and barriers vanish in them
VECTOR_BYTES: Final = 48 << 20  # of the matrix that one row meets
TRY_S: Final = 0.08  # of one rate in a turn
TURNS: Final = 4
MIN_TRIES: Final = 3
SMALL_BYTES: Final = 1 << 20
CALLS: Final = 2000
FORMATS: Final = {"float32": 4, "bfloat16": 2, "float16": 2}
GPU_NAMES: Final = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16"}
NATIVE_BF16: Final = ("avx512_bf16", "amx_bf16", "bf16", "svebf16")


def measure_ceilings(torch: ModuleType, service: Service, profile: MachineProfile) -> EagerCeilings:
    if service.device == "cuda":
        return _of_gpu(torch, service, profile)
    meter = MeasuredCeilings(profile)
    threads = service.threads.intra
    own = service.dtype if service.dtype in FORMATS else "float32"
    granted = granted_cpus(profile.cores)
    rates, granted_rate = _rates(torch, own, threads, granted)
    part = min(1.0, threads / max(1, profile.cores.threads))
    hardware = 2 * profile.peaks[0].fp32_gmac_per_s * part if profile.peaks else 0.0
    flags = read_facts(None).cpu_flags
    used = min(threads, granted)  # more threads than CPUs read no faster
    return EagerCeilings(
        gb_per_s=meter.at(used, service.weight_bytes)[0],
        cache_gb_per_s=meter.at(used, SMALL_BYTES)[0],
        cache_bytes=meter.cache_bytes,
        gflop_per_s=max(hardware, rates["float32"].matrix, rates[own].matrix),
        rates=rates,
        call_s=_call_seconds(torch),
        granted=granted,
        granted_rate=granted_rate,
        native_bf16=any(flag in NATIVE_BF16 for flag in flags) if flags else None,
    )


def _rates(torch: ModuleType, own: str, threads: int, granted: int) -> tuple[dict[str, Rate], Rate | None]:
    """By format in turns, so that a neighbour meets all of them; own once more with `granted` threads."""
    rates: dict[str, Rate] = {}
    other: Rate | None = None
    for _ in range(TURNS):
        for name in dict.fromkeys((own, "float32", "bfloat16")):
            rates[name] = _better(rates.get(name), _rate(torch, name))
        if granted != threads:
            torch.set_num_threads(granted)
            try:
                other = _better(other, _rate(torch, own))
            finally:
                torch.set_num_threads(threads)
    return rates, other


def _better(one: Rate | None, two: Rate) -> Rate:
    return two if one is None else Rate(max(one.matrix, two.matrix), max(one.vector, two.vector))


def granted_cpus(cores: Cores) -> int:
    """CPUs that this process may use at once, whole ones."""
    return max(1, int(min(cores.affinity, cores.physical, cores.quota or cores.affinity)))


def _rate(torch: ModuleType, name: str) -> Rate:
    """Zeros where torch has no such product on this CPU."""
    kind = getattr(torch, name)
    try:
        square = torch.ones((SIDE, SIDE), dtype=kind)
        flops = 2 * SIDE**3
        matrix = flops / _best(lambda: torch.mm(square, square)) / 1e9
        width = 2048
        height = VECTOR_BYTES // (width * FORMATS[name])
        wide, row = torch.ones((height, width), dtype=kind), torch.ones((1, width), dtype=kind)
        vector = 2 * width * height / _best(lambda: torch.nn.functional.linear(row, wide)) / 1e9
    except RuntimeError:
        return Rate(0.0, 0.0)
    return Rate(matrix, vector)


def _best(body: Callable[[], Any]) -> float:
    """Seconds of the fastest call: a neighbour lowers a try, and none raises one."""
    body()
    found: list[float] = []
    began_s = time.perf_counter()
    while len(found) < MIN_TRIES or time.perf_counter() - began_s < TRY_S:
        call_s = time.perf_counter()
        body()
        found.append(time.perf_counter() - call_s)
    return min(found)


def _call_seconds(torch: ModuleType) -> float:
    """Of an operator on a single number, from Python."""
    number = torch.ones(1)
    found = []
    with torch.no_grad():
        for _ in range(MIN_TRIES):
            began_s = time.perf_counter()
            for _ in range(CALLS):
                torch.add(number, number)
            found.append((time.perf_counter() - began_s) / CALLS)
    return min(found)


def _of_gpu(torch: ModuleType, service: Service, profile: MachineProfile) -> EagerCeilings:
    gpu: Gpu = profile.gpus[0] if profile.gpus else measure_gpu(torch, 0, GpuBudget())[0]
    peaks = gpu.tflop_per_s
    peak = peaks.get(GPU_NAMES.get(service.dtype, "fp32"), peaks.get("fp32", 0.0)) * 1e3
    return EagerCeilings(
        gb_per_s=gpu.gb_per_s,
        cache_gb_per_s=gpu.gb_per_s,
        cache_bytes=0,
        gflop_per_s=peak,
        call_s=_call_seconds(torch),
        granted=granted_cpus(profile.cores),
    )


def stored_ceilings(service: Service, profile: MachineProfile) -> EagerCeilings:
    """Of the stored profile, where nothing could be measured now: no rates of torch's."""
    cores = profile.cores
    threads = min(service.threads.intra, granted_cpus(cores))
    dram = profile.dram_with(threads)
    last = max(profile.caches, key=lambda level: level.size_bytes, default=None)
    gb_per_s = dram[1] if dram is not None else 0.0
    part = min(1.0, threads / max(1, cores.threads))
    return EagerCeilings(
        gb_per_s=gb_per_s,
        cache_gb_per_s=gb_per_s if last is None or last.gb_per_s is None else last.gb_per_s * part,
        cache_bytes=0 if last is None else last.size_bytes,
        gflop_per_s=2 * profile.peaks[0].fp32_gmac_per_s * part if profile.peaks else 0.0,
        granted=granted_cpus(cores),
    )
