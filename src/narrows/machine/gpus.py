"""What each GPU that torch sees can do: memory bandwidth, and matrix products by number format.

torch is imported only where a GPU's device file exists, or where the user asks for it: elsewhere it would
cost seconds to learn that there is none.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Final

from narrows.machine.facts import ROOT, gpu_files
from narrows.machine.profile import Gpu

AMPERE: Final = (8, 0)  # the first with tf32 and bf16 in its matrix units


@dataclass(frozen=True, slots=True)
class GpuBudget:
    copy_bytes: int = 1 << 30
    side: int = 8192  # of the square matrices
    try_s: float = 0.03  # of one timing
    slow_s: float = 0.2  # a call that takes longer is timed once
    tries: int = 4


def measure_gpus(
    *, asked: bool, budget: GpuBudget = GpuBudget(), root: Path = ROOT
) -> tuple[tuple[Gpu, ...], dict[str, str]]:
    """The GPUs, and by name what could not be measured, and why."""
    if not asked and not gpu_files(root):
        return (), {}
    try:
        import torch
    except ImportError as error:
        return (), {"gpus": f"torch cannot be imported ({error}); pip install torch"}
    if not torch.cuda.is_available():
        return (), {
            "gpus": f"torch {torch.__version__} sees no GPU: is it a build for it, and is the driver loaded?"
        }
    gpus, unknown = [], {}
    for index in range(torch.cuda.device_count()):
        try:
            gpu, missing = measure_gpu(torch, index, budget)
        except RuntimeError as error:  # out of memory, or taken by another process
            unknown[f"gpu {index}"] = _first_line(error)
            continue
        gpus.append(gpu)
        unknown.update({f"gpu {index}, {name}": why for name, why in missing.items()})
    return tuple(gpus), unknown


def measure_gpu(torch: ModuleType, index: int, budget: GpuBudget) -> tuple[Gpu, dict[str, str]]:
    """One GPU; by number format why a peak is unknown. RuntimeError where it does not work at all."""
    device = f"cuda:{index}"
    properties = torch.cuda.get_device_properties(index)

    def wait() -> None:
        torch.cuda.synchronize(index)

    copied = min(budget.copy_bytes, properties.total_memory // 16)
    gb_per_s = copy_gb_per_s(torch, device, copied, wait, budget)
    peaks: dict[str, float] = {}
    missing: dict[str, str] = {}
    modern = tuple(torch.cuda.get_device_capability(index)) >= AMPERE
    for name in ("fp32", "tf32", "bf16", "fp16", "int8"):
        if name in ("tf32", "bf16") and not modern:
            missing[name] = "its matrix units have no such format"
            continue
        try:
            peaks[name] = matrix_tflop_per_s(torch, device, name, wait, budget)
        except (RuntimeError, AttributeError) as error:
            missing[name] = _first_line(error)
    return Gpu(properties.name, properties.total_memory, gb_per_s, peaks), missing


def copy_gb_per_s(
    torch: ModuleType, device: str, num_bytes: int, wait: Callable[[], None], budget: GpuBudget
) -> float:
    """Bytes read and written, a second, by copies within the GPU's memory."""
    source = torch.zeros(num_bytes, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * num_bytes / _seconds(lambda: target.copy_(source), wait, budget) / 1e9


def matrix_tflop_per_s(
    torch: ModuleType, device: str, name: str, wait: Callable[[], None], budget: GpuBudget
) -> float:
    """1e12 operations a second, a multiply-add is two, of square products; tf32 is fp32 on matrix units."""
    side = budget.side
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if name == "tf32" else "highest")
    try:
        if name == "int8":
            a = torch.ones((side, side), dtype=torch.int8, device=device)
            b = a.t()  # the second factor by columns, as the units want it
            seconds = _seconds(lambda: torch._int_mm(a, b), wait, budget)
        else:
            kind = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(name, torch.float32)
            a = torch.ones((side, side), dtype=kind, device=device)
            seconds = _seconds(lambda: torch.matmul(a, a), wait, budget)
    finally:
        torch.set_float32_matmul_precision(before)
    return float(2 * side**3 / seconds / 1e12)


def _seconds(body: Callable[[], object], wait: Callable[[], None], budget: GpuBudget) -> float:
    """Of one call; each timing holds as many as fill try_s, and the best timing counts."""
    body()  # loads the kernel
    once = _time(body, wait, 1)
    if once > budget.slow_s:
        return once
    calls = max(1, min(1000, round(budget.try_s / max(once, 1e-9))))
    return min(_time(body, wait, calls) for _ in range(budget.tries)) / calls


def _time(body: Callable[[], object], wait: Callable[[], None], calls: int) -> float:
    wait()
    began_s = time.perf_counter()
    for _ in range(calls):
        body()
    wait()
    return time.perf_counter() - began_s


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
