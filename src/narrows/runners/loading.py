"""From a model folder to everything a CpuRunner holds, with the seconds each phase took.

In: folder, CpuOptions. Out: Loaded. Sizes are checked against the machine's memory before anything large is
taken.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from narrows import _core
from narrows.errors import InvalidConfig, OutOfMemory, UnsupportedHardware
from narrows.kernels.formats import KV_BLOCK
from narrows.models.checkpoint import open_checkpoint
from narrows.models.config import read_config
from narrows.models.families import build_spec
from narrows.models.sizes import kv_bytes_per_token
from narrows.models.spec import TransformerSpec
from narrows.runners.attention import checkpoint_norms, plan_attention
from narrows.runners.memory import available_bytes, require, shown_bytes
from narrows.runners.native_model import build_model
from narrows.runners.options import CpuOptions
from narrows.runners.plan import PackPlan, make_plan, resolve_recipe
from narrows.runners.weights import PackedWeights, Progress, load_weights

KV_SHARE = 4  # by default a quarter of the free memory may become KV pages; they take memory only when used
KV_CONTEXTS = 32  # and no more than this many full contexts


@dataclass(frozen=True, slots=True)
class Loaded:
    """The parts of a runner."""

    spec: TransformerSpec
    options: CpuOptions
    model: _core.Model
    pool: _core.ThreadPool
    kv: _core.KvPages
    transformer: _core.Transformer
    max_context: int
    description: dict[str, str]
    times: dict[str, float]  # seconds: read, verify, pack, build


@dataclass(frozen=True, slots=True)
class KvSize:
    num_blocks: int
    max_context: int


class PhaseTimes:
    """Seconds by phase; a phase that did not happen is absent."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def measure(self, name: str) -> Iterator[None]:
        begin = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - begin


def load_model(folder: Path, options: CpuOptions, *, progress: Progress | None = None) -> Loaded:
    """Reads, packs or maps, and builds."""
    times = PhaseTimes()
    try:
        isa = _core.isa()
        pool = _core.ThreadPool(options.threads or _core.effective_cpus())
    except RuntimeError as error:
        raise UnsupportedHardware(f"{error}; unset NARROWS_ISA to let Narrows choose") from error
    with times.measure("read"):
        checkpoint = open_checkpoint(folder)
        spec = build_spec(read_config(folder), checkpoint, max_context=options.max_context)
        plan = make_plan(spec, resolve_recipe(options.weights, options.group, options.head, spec, checkpoint))
        attention, words = plan_attention(spec, plan.recipe.weights, checkpoint_norms(checkpoint), options)
        block_bytes = KV_BLOCK * kv_bytes_per_token(spec, kv=tuple(layer.kv for layer in attention))
        kv_size = size_kv(spec, plan, options, block_bytes)
    weights = load_weights(
        plan, checkpoint, folder=folder, pool=pool, use_cache=options.cache, progress=progress, times=times
    )
    with times.measure("build"):
        model = build_model(spec, weights, checkpoint, attention=attention)
        try:
            kv = _core.KvPages(model, kv_size.num_blocks)
            transformer = _core.Transformer(model, pool, options.max_step_tokens)
        except MemoryError as error:
            raise OutOfMemory(
                f"no memory for {kv_size.num_blocks} KV blocks and steps of {options.max_step_tokens} "
                f"tokens; "
                "choose fewer blocks or a smaller max_step_tokens"
            ) from error
    pages = f"{words['kv']}, {kv.num_blocks} blocks, {shown_bytes(kv.bytes)}"
    description = _describe(spec, weights, pool, isa) | words | {"kv": pages}
    return Loaded(
        spec, options, model, pool, kv, transformer, kv_size.max_context, description, dict(times.seconds)
    )


def size_kv(spec: TransformerSpec, plan: PackPlan, options: CpuOptions, block_bytes: int) -> KvSize:
    """How many KV blocks, and the longest context they hold; OutOfMemory names both numbers."""
    longest = spec.max_positions
    if options.max_context is not None and options.max_context > longest:
        raise InvalidConfig(
            f"max_context is {options.max_context} but this model's context holds {longest} tokens"
        )
    wanted = options.max_context or longest
    require(
        plan.num_bytes + block_bytes,
        "the model's weights",
        "choose weights of fewer bits (q8, q4) or a smaller model",
    )
    num_blocks = _num_blocks(plan, options, block_bytes, blocks_per_context=-(-wanted // KV_BLOCK))
    held = num_blocks * KV_BLOCK
    if held < wanted and options.max_context is not None:
        raise OutOfMemory(
            f"a context of {wanted} tokens needs {shown_bytes(-(-wanted // KV_BLOCK) * block_bytes)} of KV "
            f"memory, but "
            f"{shown_bytes(num_blocks * block_bytes)} are given to it; choose a smaller max_context or more "
            f"KV memory"
        )
    return KvSize(num_blocks, min(wanted, held))


def _num_blocks(plan: PackPlan, options: CpuOptions, block_bytes: int, *, blocks_per_context: int) -> int:
    free = available_bytes() - plan.num_bytes
    if options.num_blocks is not None or options.kv_memory_bytes is not None:
        num_blocks = options.num_blocks or (options.kv_memory_bytes or 0) // block_bytes
        if num_blocks < 1:
            raise InvalidConfig(
                f"kv_memory_bytes is {options.kv_memory_bytes}, less than one block of {KV_BLOCK} tokens "
                f"({block_bytes}); give more"
            )
        require(plan.num_bytes + num_blocks * block_bytes, "weights and KV blocks", "choose fewer blocks")
        return num_blocks
    return max(1, min(free // KV_SHARE // block_bytes, KV_CONTEXTS * blocks_per_context))


def _describe(
    spec: TransformerSpec,
    weights: PackedWeights,
    pool: _core.ThreadPool,
    isa: str,
) -> dict[str, str]:
    plan = weights.plan
    layers, head = plan.matrices[0].shape.format.describe(), plan.matrices[-1].shape.format.describe()
    facts = {
        "family": spec.family,
        "weights": layers if layers == head else f"{layers}, head {head}",
        "weight_bytes": shown_bytes(plan.num_bytes),
        "cache": "used" if weights.from_cache else ("written" if weights.is_cached else "off"),
        "threads": str(pool.size),
        "isa": isa,
    }
    return facts | ({"notes": "; ".join(spec.notes)} if spec.notes else {})
