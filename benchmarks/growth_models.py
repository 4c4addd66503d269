"""Runners in real and in scaled shapes without a checkpoint: for speed only.

Every matrix is one panel of packed noise repeated over its own memory, in huge pages as
loaded weights are: a step reads as many bytes from as many places as of a real model. Pages of keys and
values are written once before they are read, since pages nobody wrote are not there. Quality is not
measured on these.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from shapes import SHAPES, Shape, config

from narrows import _core
from narrows.engine.step import SamplingParams, SequenceStep, Step
from narrows.kernels.cache import huge_memory
from narrows.kernels.formats import KV_BLOCK, KvKind
from narrows.kernels.packing import pack_matrix
from narrows.models.config import ModelConfig
from narrows.models.families.outline import spec_from_config
from narrows.models.spec import TransformerSpec
from narrows.runners.attention import LayerAttention, plan_attention
from narrows.runners.cpu import CpuRunner
from narrows.runners.loading import Loaded
from narrows.runners.native_model import build_model
from narrows.runners.options import CpuOptions
from narrows.runners.plan import PackPlan, Recipe, make_plan
from narrows.runners.weights import PackedWeights

GROUP = 128
HEADS = {
    "q8": "q8",
    "q4": "q4",
}  # one panel of noise over and over: two planes could not tell its tokens apart
STEP_TOKENS = 512
GREEDY = SamplingParams(temperature=0.0)
POSITIONS = 40960
# Between the embedded model and the real shapes: 9, 33 and 100 million parameters.
SCALED = {
    "9m": Shape("llama", 256, 8, 4, 2, 64, 688, 8192, 1e4, max_positions=POSITIONS),
    "33m": Shape("llama", 512, 8, 8, 4, 64, 1536, 16384, 1e4, max_positions=POSITIONS),
    "100m": Shape("llama", 768, 12, 12, 4, 64, 2048, 32000, 1e4, max_positions=POSITIONS),
}
ALL_SHAPES = {**SCALED, **{name: SHAPES[name] for name in ("qwen3-0.6b", "llama-3.2-1b", "qwen3-4b")}}


@dataclass(frozen=True, slots=True)
class Outlined:
    """What the cost model knows of a model before any weight exists."""

    spec: TransformerSpec
    recipe: Recipe
    attention: tuple[LayerAttention, ...]

    @property
    def kv(self) -> tuple[KvKind, ...]:
        return tuple(layer.kv for layer in self.attention)


@cache
def outline(shape: str, weights: str) -> Outlined:
    """`q4` is q4_fast of cpu.py: groups of 128, head in 4 bits. Keys and values take 8 bits beside
    4-bit weights (no keys here have biases, no norm over keys an outlier).
    """
    spec = spec_from_config(ModelConfig(config(ALL_SHAPES[shape])))
    attention, _ = plan_attention(spec, weights, lambda norm: np.ones(1, np.float32), CpuOptions())
    return Outlined(spec, Recipe(weights, GROUP, HEADS.get(weights, "auto")), attention)  # type: ignore[arg-type]


def noise(plan: PackPlan, pool: _core.ThreadPool) -> PackedWeights:
    """The plan's bytes: vectors of ones, matrices of one random panel each."""
    data = huge_memory(plan.num_bytes)
    for vector in plan.vectors:
        data[vector.begin : vector.begin + 4 * vector.length].view(np.float32)[:] = 1.0
    rng = np.random.default_rng(0)
    panels: dict[tuple[object, int], np.ndarray] = {}
    for matrix in plan.matrices:
        shape = matrix.shape
        key = shape.format, shape.k
        if key not in panels:
            panels[key] = np.zeros(shape.panel_bytes + 64, dtype=np.uint8)
            begin = -panels[key].ctypes.data % 64  # the core wants whole cache lines
            panels[key] = panels[key][begin : begin + shape.panel_bytes]
            values = (rng.standard_normal((16, shape.k)) * shape.k**-0.5).astype(np.float32)
            one = type(shape)(shape.format, 16, shape.k)
            pack_matrix([values], one, out=panels[key], interleave=False, name="noise", pool=pool)
        data[matrix.begin : matrix.begin + shape.num_bytes].reshape(shape.panels, -1)[:] = panels[key]
    return PackedWeights(plan, data)


def make_runner(shape: str, weights: str, *, threads: int, num_blocks: int) -> CpuRunner:
    """A runner over noise, built as runners/loading.py builds one."""
    known = outline(shape, weights)
    options = CpuOptions(weights=weights, threads=threads, num_blocks=num_blocks)  # type: ignore[arg-type]
    pool = _core.ThreadPool(threads)
    packed = noise(make_plan(known.spec, known.recipe), pool)
    model = build_model(known.spec, packed, None, attention=known.attention)  # type: ignore[arg-type]
    kv = _core.KvPages(model, num_blocks)
    transformer = _core.Transformer(model, pool, STEP_TOKENS)
    return CpuRunner(Loaded(known.spec, options, model, pool, kv, transformer, POSITIONS, {}, {}))


def touch(runner: CpuRunner, num_blocks: int) -> None:
    """Writes one token into each block, which makes its pages real: all lines of K, one row of V."""
    for first in range(0, num_blocks, STEP_TOKENS):
        blocks = range(first, min(first + STEP_TOKENS, num_blocks))
        for block in blocks:
            runner.add(block, GREEDY, (1,))
        sequences = tuple(SequenceStep(block, (1,), 0, (block,), False) for block in blocks)
        runner.run(Step(sequences))
        for block in blocks:
            runner.remove(block)


def blocks_for(tokens: int) -> int:
    return -(-tokens // KV_BLOCK)
