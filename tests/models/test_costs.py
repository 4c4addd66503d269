"""Counts of costs.py against torch's FLOP counter and by hand; the formulas of time at their limits."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from narrows.kernels.formats import PackedFormat
from narrows.models import costs, sizes
from narrows.models.checkpoint import open_checkpoint
from narrows.models.config import ModelConfig, read_config
from narrows.models.families import build_spec
from narrows.models.families.outline import spec_from_config
from narrows.models.reference import ReferenceModel
from narrows.models.step_time import Ceilings, Rates, cached_share, group_seconds, op_seconds, step_seconds
from tests.models.tiny import VARIANTS, prompt, save_tiny

NUM_TOKENS = 23
aten = torch.ops.aten
LLAMA = ModelConfig(
    {
        "model_type": "llama",
        "vocab_size": 96,
        "hidden_size": 64,
        "intermediate_size": 80,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 4096,
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": True,
    }
)


@dataclass(frozen=True)
class OneFormat:
    format: PackedFormat

    def matrix_format(self, k: int) -> PackedFormat:
        return self.format

    def head_format(self, k: int) -> PackedFormat:
        return self.format


F32 = OneFormat(PackedFormat("f32"))
P4 = OneFormat(PackedFormat("p4", 64, has_zero=True))


def total(ops: tuple[costs.OpCost, ...], name: str) -> int:
    return sum(getattr(op, name) for op in ops)


def seen_pairs(num_tokens: int, start: int, window: int) -> int:
    """Counted one by one."""
    return sum(
        1
        for query in range(start, start + num_tokens)
        for key in range(query + 1)
        if not window or query - key < window
    )


@pytest.mark.parametrize("variant", VARIANTS)
def test_flops_are_those_of_torch(variant: str, tmp_path: Path) -> None:
    """The oracle multiplies every query with every key and masks afterwards; a model needs the pairs the
    mask leaves. So its attention (bmm) is scaled, layer by layer, by their share."""
    save_tiny(variant, tmp_path)
    checkpoint = open_checkpoint(tmp_path)
    spec = build_spec(read_config(tmp_path), checkpoint)
    model = ReferenceModel(spec, checkpoint)
    with FlopCounterMode(display=False) as counter:
        model.logits(prompt(NUM_TOKENS))
    counted = counter.get_flop_counts()["Global"]
    ops = costs.step_costs(spec, F32, [costs.Chunk(NUM_TOKENS, num_logits=NUM_TOKENS)])
    groups = costs.by_group(ops)
    linears = sum(cost.flops for group, cost in groups.items() if group != "attention")
    assert linears == pytest.approx(counted[aten.mm] + counted.get(aten.addmm, 0), rel=0.01)
    dense = [4 * layer.heads * layer.head_dim * NUM_TOKENS**2 for layer in spec.layers]
    assert sum(dense) == pytest.approx(counted[aten.bmm], rel=0.01)
    wanted = sum(
        flops * seen_pairs(NUM_TOKENS, 0, layer.window) / NUM_TOKENS**2
        for flops, layer in zip(dense, spec.layers, strict=True)
    )
    assert groups["attention"].flops == pytest.approx(wanted, rel=1e-9)


@pytest.mark.parametrize("window", [0, 1, 7, 40])
@pytest.mark.parametrize(("num_tokens", "start"), [(1, 0), (1, 50), (30, 0), (30, 5), (5, 38), (64, 100)])
def test_pairs_are_those_the_mask_leaves(num_tokens: int, start: int, window: int) -> None:
    assert costs.visible_pairs(num_tokens, start, window) == seen_pairs(num_tokens, start, window)


def test_a_prompt_in_chunks_asks_for_as_much_as_in_one() -> None:
    spec = spec_from_config(LLAMA)
    whole = costs.step_costs(spec, F32, costs.prefill(100)[0])
    steps = costs.prefill(100, max_step_tokens=32)
    assert [(chunk.num_tokens, chunk.start, chunk.num_logits) for (chunk,) in steps] == [
        (32, 0, 0),
        (32, 32, 0),
        (32, 64, 0),
        (4, 96, 1),
    ]
    parts = [costs.step_costs(spec, F32, step) for step in steps]
    for name in ("flops", "scores", "kv_written_bytes"):
        assert sum(total(part, name) for part in parts) == total(whole, name)
    # The weights are read once a step; the head only where logits are wanted.
    head = costs.by_group(whole)["head"].weight_bytes
    body = sum(op.weight_bytes for op in whole if op.group not in ("head", "other"))
    read = sum(op.weight_bytes for part in parts for op in part if op.group != "other")
    assert read == 4 * body + head


def test_streams_share_the_weights_but_not_the_pages() -> None:
    spec = spec_from_config(LLAMA)
    one, eight = (costs.by_group(costs.step_costs(spec, P4, costs.decode(n, 1000))) for n in (1, 8))
    for group in ("qkv", "out", "up", "down", "head"):
        assert eight[group].weight_bytes == one[group].weight_bytes
        assert eight[group].flops == 8 * one[group].flops
    assert eight["attention"].kv_read_bytes == 8 * one["attention"].kv_read_bytes
    token = sizes.kv_bytes_per_token(spec)
    assert one["attention"].kv_read_bytes == 1008 * token  # 1,001 keys in whole blocks
    assert one["attention"].kv_written_bytes == token
    assert sizes.kv_bytes_per_token(spec, kv="f32") == 2 * token


def test_a_window_bounds_what_decoding_reads_but_not_what_is_kept() -> None:
    spec = spec_from_config(ModelConfig({**LLAMA.values, "model_type": "mistral", "sliding_window": 64}))
    near, far = (
        costs.by_group(costs.step_costs(spec, P4, costs.decode(1, n)))["attention"] for n in (160, 3200)
    )
    assert near == far
    assert near.scores == 2 * 4 * 64
    assert sizes.kv_bytes_per_token(spec) == sizes.kv_bytes_per_token(spec_from_config(LLAMA))


def test_a_mixed_step_is_its_parts_over_the_same_weights() -> None:
    spec = spec_from_config(LLAMA)
    prompt_part, answers = costs.prefill(40, start=16)[0], costs.decode(3, 200)
    mixed = costs.step_costs(spec, P4, prompt_part + answers, int8_attention=True)
    parts = [costs.step_costs(spec, P4, part, int8_attention=True) for part in (prompt_part, answers)]
    for name in ("flops", "macs", "scores", "kv_read_bytes", "kv_written_bytes", "activation_bytes"):
        assert total(mixed, name) == sum(total(part, name) for part in parts), name
    assert costs.by_group(mixed)["up"].weight_bytes == costs.by_group(parts[0])["up"].weight_bytes
    assert [op.attention for op in mixed if op.group == "attention"] == ["pages", "integers"] * 2
    floats = costs.step_costs(spec, P4, prompt_part)
    assert {op.attention for op in floats if op.group == "attention"} == {"floats"}


def test_integers_also_multiply_keys_that_a_tile_masks() -> None:
    spec = spec_from_config(LLAMA)
    (op,) = [op for op in costs.step_costs(spec, P4, costs.prefill(64)[0], int8_attention=True) if op.scores][
        :1
    ]
    # 2 heads share a kv head: tiles of 64 rows, which all walk the 64 keys of the last one.
    assert op.scores == 4 * 64 * 64
    assert op.flops == 4 * 4 * 16 * (64 * 65 // 2)
    assert op.tasks == 2


CEILINGS = Ceilings(gb_per_s=40.0, gmac_per_s=400.0, threads=2)
FREE = Rates(
    stream=1.0,
    unpack_macs=0.0,
    group_macs=0.0,
    small=1.0,
    tile=1.0,
    head_macs=0.0,
    activation_macs=0.0,
    logit_macs=0.0,
    stage_s=0.0,
    step_s=0.0,
)
MATRIX = costs.OpCost("up", rows=16, format="p4", group_size=64, macs=16 * 80_000_000, weight_bytes=40_000)
FEW = costs.OpCost("up", rows=1, format="p4", group_size=64, macs=80_000, weight_bytes=4_000_000)


def test_time_is_that_of_the_ceiling_that_is_far_slower() -> None:
    assert op_seconds(MATRIX, CEILINGS, FREE) == pytest.approx(16 * 8e7 / 400e9)
    assert op_seconds(FEW, CEILINGS, FREE) == pytest.approx(4e6 / 40e9)
    assert op_seconds(FEW, replace(CEILINGS, gb_per_s=20.0), FREE) == pytest.approx(4e6 / 20e9)
    assert op_seconds(replace(MATRIX, rows=0, macs=0, weight_bytes=0), CEILINGS, FREE) == 0.0


def test_equally_slow_ceilings_hide_each_other_only_in_part() -> None:
    both = replace(FEW, macs=40_000_000)  # 0.1 ms of memory, 0.1 ms of multiplying
    assert 1e-4 < op_seconds(both, CEILINGS, FREE) < 2e-4


def test_pages_in_memory_come_as_fast_as_threads_can_wait_for_them() -> None:
    op = costs.OpCost("attention", rows=1, kv_read_bytes=54_000_000, tasks=2, attention="pages")
    rates = replace(FREE, page_gb_per_s=13.5)
    alone = 54e6 / (2 * 13.5e9)
    for gb_per_s in (1000.0, 4000.0):  # however much the bandwidth is
        assert op_seconds(op, Ceilings(gb_per_s, 400.0, 2), rates) == pytest.approx(alone, rel=1e-3)
    cached = op_seconds(op, Ceilings(200.0, 400.0, 2, cached=1.0), rates)
    assert cached == pytest.approx(54e6 / 200e9)


def test_what_fits_the_cache_stays_there() -> None:
    assert cached_share(30, 32) == 1.0
    assert cached_share(64, 32) == 0.25
    assert cached_share(3200, 32) < 0.001


def test_five_tasks_take_two_threads_as_long_as_six() -> None:
    op = costs.OpCost("attention", rows=1, kv_read_bytes=8_000_000, tasks=5, attention="pages")
    even = op_seconds(replace(op, tasks=6), CEILINGS, FREE)
    assert op_seconds(op, CEILINGS, FREE) == pytest.approx(even * 6 / 5)


def test_groups_and_the_call_add_up_to_the_step() -> None:
    ops = costs.step_costs(spec_from_config(LLAMA), P4, costs.decode(2, 300))
    rates = Rates()
    groups = group_seconds(ops, CEILINGS, rates)
    assert set(groups) == set(costs.GROUPS)
    assert step_seconds(ops, CEILINGS, rates) == pytest.approx(sum(groups.values()) + rates.step_s)
    # A cached step on a machine of half the ceilings takes twice as long, but for its fixed parts.
    slower, cached = Ceilings(20.0, 200.0, 2, cached=1.0), replace(CEILINGS, cached=1.0)
    moving = replace(rates, stage_s=0.0, step_s=0.0)
    assert step_seconds(ops, slower, moving) == pytest.approx(2 * step_seconds(ops, cached, moving))
