"""The bytes that models/costs.py counts are the bytes of the plan, of the native model and of its pages."""

from __future__ import annotations

from pathlib import Path

import pytest

from narrows import _core
from narrows.kernels.formats import KV_BLOCK
from narrows.models import costs, sizes
from narrows.models.checkpoint import open_checkpoint
from narrows.models.config import read_config
from narrows.models.families import build_spec
from narrows.runners.loading import load_model
from narrows.runners.options import CpuOptions
from narrows.runners.plan import DEFAULT_GROUP, WEIGHTS_KINDS, Recipe, make_plan
from tests.models.tiny import VARIANTS, save_tiny


@pytest.mark.parametrize("variant", VARIANTS)
def test_bytes_are_those_of_the_plan(variant: str, tmp_path: Path) -> None:
    save_tiny(variant, tmp_path)
    spec = build_spec(read_config(tmp_path), open_checkpoint(tmp_path))
    for weights in WEIGHTS_KINDS[1:]:
        for group in (32, 128):
            recipe = Recipe(weights, group)
            plan = make_plan(spec, recipe)
            found = sizes.weight_bytes(spec, recipe)
            assert found.packed == plan.num_bytes
            assert found.matrices == sum(matrix.shape.num_bytes for matrix in plan.matrices)
            assert (found.embedding_rows > 0) == (plan.rows is not None)


@pytest.mark.parametrize("variant", ["llama", "gemma3", "gpt2", "phi3"])
@pytest.mark.parametrize("kv_dtype", ["f16", "f32", "int8"])
def test_bytes_are_those_of_the_native_model(variant: str, kv_dtype: str, tmp_path: Path) -> None:
    save_tiny(variant, tmp_path)
    options = CpuOptions(weights="q8", kv_dtype=kv_dtype, cache=False, threads=1, num_blocks=4)  # type: ignore[arg-type]
    loaded = load_model(tmp_path, options)
    per_token = sizes.kv_bytes_per_token(loaded.spec, kv=kv_dtype)
    assert _core.KvPages.block_bytes(loaded.model) == KV_BLOCK * per_token
    assert costs.KV_BLOCK == KV_BLOCK
    recipe = Recipe("q8", DEFAULT_GROUP)
    ops = costs.step_costs(loaded.spec, recipe, costs.decode(1, 20), kv=kv_dtype)
    read = sum(op.weight_bytes for op in ops if op.group != "other")
    assert read == loaded.transformer.weight_bytes_per_step == sizes.weight_bytes(loaded.spec, recipe).step
    assert set(costs.GROUPS) == set(loaded.transformer.op_times())
