"""The native runner against transformers, every family: same tokens in float32, bounded loss below."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from narrows.models.checkpoint import open_checkpoint
from narrows.models.config import read_config
from narrows.models.families import build_spec
from narrows.models.reference import ReferenceModel
from narrows.runners.cpu import CpuRunner
from narrows.runners.options import CpuOptions
from tests.models.test_families import logit_tolerance
from tests.models.tiny import VARIANTS, prompt, save_tiny, transformers_greedy
from tests.runners.generate import greedy

NUM_PROMPT, NUM_NEW = 17, 64
EXACT = CpuOptions(weights="f32", kv_dtype="f32", cache=False, threads=2, num_blocks=64)


def options(weights: str, kv: str = "f32") -> CpuOptions:
    return CpuOptions(weights=weights, kv_dtype=kv, cache=False, threads=2, num_blocks=64)  # type: ignore[arg-type]


def relative_rms(got: np.ndarray, wanted: np.ndarray) -> float:
    return float(np.sqrt(np.square(got - wanted).mean() / np.square(wanted).mean()))


@pytest.mark.parametrize("variant", VARIANTS)
def test_float32_gives_the_tokens_and_logits_of_transformers(variant: str, tmp_path: Path) -> None:
    theirs = save_tiny(variant, tmp_path)
    ids = prompt(NUM_PROMPT)
    tokens, logits = transformers_greedy(theirs, ids, NUM_NEW)
    runner = CpuRunner.from_folder(tmp_path, EXACT)
    assert greedy(runner, ids, NUM_NEW) == tokens
    assert greedy(runner, ids, NUM_NEW, chunk=5) == tokens
    found = torch.from_numpy(runner.logits(ids + tokens)[NUM_PROMPT - 1 : -1])
    torch.testing.assert_close(found, logits, rtol=0, atol=logit_tolerance(logits))


@pytest.mark.parametrize("variant", VARIANTS)
def test_smaller_weights_stay_within_what_their_rounding_explains(variant: str, tmp_path: Path) -> None:
    save_tiny(variant, tmp_path)
    ids = prompt(60)
    exact = CpuRunner.from_folder(tmp_path, EXACT)
    wanted = exact.logits(ids)
    # The checkpoints hold bf16 values, so bf16 weights lose nothing.
    same = CpuRunner.from_folder(tmp_path, options("bf16")).logits(ids)
    assert np.abs(same - wanted).max() <= logit_tolerance(torch.from_numpy(wanted))
    # Rounding steps are uniform: an int8 step is max/127 with max about 3 sigma, a 4-bit one range/15 with
    # range about 4 sigma, and a step's RMS error is step/sqrt(12). Weights and activations err alike; errors
    # of independent matrices add as squares, and norms and soft maxima may triple them.
    depth = (4 * len(exact.spec.layers) + 1) ** 0.5
    int8 = 3 / 127 / 12**0.5
    bounds = {"q8": 3 * depth * int8 * 2**0.5, "q4": 3 * depth * (4 / 15 / 12**0.5 + int8)}
    for weights, bound in bounds.items():
        found = CpuRunner.from_folder(tmp_path, options(weights)).logits(ids)
        assert relative_rms(found, wanted) <= bound, weights
    half = CpuRunner.from_folder(tmp_path, options("f32", "f16")).logits(ids)
    assert relative_rms(half, wanted) <= 2 * depth * 2.0**-11


@pytest.mark.parametrize("weights", ["f32", "q8", "q4"])
def test_chunks_and_threads_do_not_change_a_bit(weights: str, tmp_path: Path) -> None:
    save_tiny("qwen3", tmp_path)
    ids = prompt(60)
    runs = []
    for threads, max_step_tokens in ((1, 512), (2, 512), (2, 7)):
        chosen = CpuOptions(
            weights=weights,
            threads=threads,
            max_step_tokens=max_step_tokens,
            cache=False,
            num_blocks=8,  # type: ignore[arg-type]
        )
        runs.append(CpuRunner.from_folder(tmp_path, chosen).logits(ids))
    np.testing.assert_array_equal(runs[0], runs[1])
    np.testing.assert_array_equal(runs[0], runs[2])


def prune(folder: Path) -> None:
    """Layer 1 loses half its heads and some of its MLP, as structured pruning leaves a model."""
    path = folder / "model.safetensors"
    tensors = load_file(path)
    prefix, head_dim = "model.layers.1.", 12
    for name, rows in (("q", 2 * head_dim), ("k", head_dim), ("v", head_dim)):
        key = f"{prefix}self_attn.{name}_proj.weight"
        tensors[key] = tensors[key][:rows].contiguous()
    for name in ("gate", "up"):
        tensors[f"{prefix}mlp.{name}_proj.weight"] = tensors[f"{prefix}mlp.{name}_proj.weight"][
            :53
        ].contiguous()
    for name, columns in (("self_attn.o_proj", 2 * head_dim), ("mlp.down_proj", 53)):
        tensors[f"{prefix}{name}.weight"] = tensors[f"{prefix}{name}.weight"][:, :columns].contiguous()
    save_file(tensors, path, metadata={"format": "pt"})


def test_layers_of_different_widths_run(tmp_path: Path) -> None:
    save_tiny("llama", tmp_path)
    prune(tmp_path)
    checkpoint = open_checkpoint(tmp_path)
    spec = build_spec(read_config(tmp_path), checkpoint)
    assert [(layer.heads, layer.kv_heads, layer.intermediate) for layer in spec.layers] == [
        (4, 2, 80),
        (2, 1, 53),
        (4, 2, 80),
    ]
    oracle = ReferenceModel(spec, checkpoint)
    ids = prompt(40)
    runner = CpuRunner.from_folder(tmp_path, EXACT)
    wanted = oracle.logits(ids)
    torch.testing.assert_close(
        torch.from_numpy(runner.logits(ids)), wanted, rtol=0, atol=logit_tolerance(wanted)
    )
    assert greedy(runner, ids, 20) == oracle.greedy(ids, 20)
    quantized = CpuRunner.from_folder(tmp_path, options("q8")).logits(ids)
    assert relative_rms(quantized, wanted.numpy()) < 0.2


def test_longrope_uses_the_long_factors_where_a_long_context_is_asked_for(tmp_path: Path) -> None:
    theirs = save_tiny("phi3_longrope", tmp_path)
    ids = prompt(110)  # beyond the original 96 positions: transformers uses the long factors
    with torch.no_grad():
        wanted = theirs(torch.tensor([ids])).logits[0]
    short = CpuRunner.from_folder(tmp_path, EXACT)
    assert short.info.max_context == 96
    assert "max_context up to 128" in short.info.description["notes"]
    asked = CpuOptions(weights="f32", kv_dtype="f32", cache=False, num_blocks=64, max_context=128)
    long = CpuRunner.from_folder(tmp_path, asked)
    assert long.info.max_context == 128
    torch.testing.assert_close(
        torch.from_numpy(long.logits(ids)), wanted, rtol=0, atol=logit_tolerance(wanted)
    )


def test_bf16_checkpoints_keep_their_precision(tmp_path: Path) -> None:
    """Gemma's embedding scale is rounded to the checkpoint's dtype, as transformers does in bf16."""
    theirs = save_tiny("gemma2", tmp_path, dtype=torch.bfloat16)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["dtype"] == "bfloat16"
    runner = CpuRunner.from_folder(tmp_path, CpuOptions(kv_dtype="f32", cache=False, num_blocks=8))
    assert runner.info.description["weights"] == "bf16"
    assert runner.spec.embedding_scale == float(torch.tensor(48**0.5).to(torch.bfloat16))
    ids = prompt(30)
    with torch.no_grad():
        wanted = theirs(torch.tensor([ids])).logits[0].float().numpy()
    # transformers rounds every activation to bf16: 2^-9 relative, some 13 roundings a layer
    assert relative_rms(runner.logits(ids), wanted) < 2.0**-9 * (13 * 4) ** 0.5 * 2
