"""A GPU that the machine profile measured, by arithmetic: bytes over its bandwidth, FLOPs over its peak.

In: a setup, a measured Gpu. Out: Figures and the assumptions in words. No such runner exists in this version.
"""

from __future__ import annotations

from typing import Final

from narrows.diagnose.predict import Predictor, compose
from narrows.diagnose.roofline import work_of
from narrows.diagnose.setup import LOADS, Load, Setup, steps_of
from narrows.machine.profile import Gpu
from narrows.report import Figures

BANDWIDTH_SHARE: Final = 0.6  # of the measured one: engines' kernels one after another reach about so much
PEAK_SHARE: Final = 0.5
LAUNCH_S: Final = 1.5e-6  # of a kernel inside a graph
KERNELS: Final = 8  # a layer
DTYPES: Final = ("bf16", "fp16", "fp32")  # weights and products; the first one measured is taken
ITEM_BYTES: Final = {"bf16": 2, "fp16": 2, "fp32": 4}


def on_gpu(predictor: Predictor, setup: Setup, gpu: Gpu) -> tuple[Figures, tuple[str, ...]] | None:
    """None where the model does not fit, or nothing of the GPU's peaks is known."""
    dtype = next((name for name in DTYPES if name in gpu.tflop_per_s), None)
    if dtype is None or gpu.gb_per_s <= 0:
        return None
    packed = setup.recipe.weights
    bits = {"q4": 0.5, "q8": 1.0}.get(packed, ITEM_BYTES[dtype])
    grown = ITEM_BYTES[dtype] / bits  # float weights instead of packed ones
    if setup.memory_bytes * grown > gpu.memory_bytes:
        return None
    units: dict[Load, float] = {}
    for load in LOADS:
        work = work_of(setup, load).values()
        num_bytes = sum(one.kv_bytes + (one.read_bytes - one.kv_bytes) * grown for one in work)
        flops = sum(one.flops for one in work)
        memory_s = num_bytes / (BANDWIDTH_SHARE * gpu.gb_per_s * 1e9)
        compute_s = flops / (PEAK_SHARE * gpu.tflop_per_s[dtype] * 1e12)
        launches = len(steps_of(setup, load)) * KERNELS * len(setup.spec.layers)
        units[load] = max(memory_s, compute_s) + launches * LAUNCH_S
    present = predictor.present
    figures = compose(setup, units, host_s=present.host_s, request_s=present.request_s)
    notes = (
        f"{dtype} weights, at {BANDWIDTH_SHARE:.0%} of {gpu.gb_per_s:,.0f} GB/s and {PEAK_SHARE:.0%} of "
        f"{gpu.tflop_per_s[dtype]:,.0f} TFLOP/s; assumed shares, nothing was run",
    )
    return figures, notes
