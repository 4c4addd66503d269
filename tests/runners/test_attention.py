"""When prompts attend in integers: the weights, the options and the model's own keys decide."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from narrows.models.checkpoint import open_checkpoint
from narrows.models.config import read_config
from narrows.models.families import build_spec
from narrows.models.spec import NormSpec, TransformerSpec
from narrows.runners.attention import LayerAttention, NormWeights, plan_attention
from narrows.runners.options import CpuOptions
from tests.models.tiny import save_tiny


def norms(largest: float) -> NormWeights:
    """Every norm is ones but for one entry."""
    weight = np.ones(128, dtype=np.float32)
    weight[5] = largest
    return lambda norm: weight


@pytest.fixture(scope="module")
def specs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, TransformerSpec]:
    made = {}
    for name in ("llama_tied", "qwen2", "qwen3"):
        folder = tmp_path_factory.mktemp(name)
        save_tiny(name, folder)
        made[name] = build_spec(read_config(Path(folder)), open_checkpoint(folder))
    return made


def test_it_is_for_4_bit_weights_and_never_over_f32_keys(specs: dict[str, TransformerSpec]) -> None:
    def chosen(weights: str, **options: object) -> tuple[str, bool, str, str]:
        layers, words = plan_attention(specs["llama_tied"], weights, norms(1), CpuOptions(**options))  # type: ignore[arg-type]
        assert len(layers) == len(specs["llama_tied"].layers)
        assert len(set(layers)) == 1
        return layers[0].kv, layers[0].int8_prompts, words["attention"], words["kv"]

    assert chosen("q4") == ("int8", True, "int8 for prompts, f32 for answers", "int8")
    assert chosen("q8") == ("f16", False, "f32, beside q8 weights", "f16")
    assert chosen("q4", kv_dtype="f32") == ("f32", False, "f32, over f32 keys", "f32")
    assert chosen("q4", kv_dtype="f16") == ("f16", True, "int8 for prompts, f32 for answers", "f16")
    assert chosen("q8", kv_dtype="int8") == ("int8", False, "f32, beside q8 weights", "int8")
    assert chosen("q4", attention="f32") == ("int8", False, "f32, as asked for", "int8")
    assert chosen("bf16", attention="int8") == ("f16", True, "int8, as asked for", "f16")


def test_layers_whose_keys_have_outliers_keep_16_bits(specs: dict[str, TransformerSpec]) -> None:
    layers, words = plan_attention(specs["qwen2"], "q4", norms(1), CpuOptions())
    assert set(layers) == {LayerAttention("f16", False)}
    assert words == {"attention": "f32: layer 0 has key biases", "kv": "f16"}
    layers, _ = plan_attention(specs["qwen3"], "q4", norms(4), CpuOptions())
    assert set(layers) == {LayerAttention("int8", True)}
    layers, words = plan_attention(specs["qwen3"], "q4", norms(-40), CpuOptions())
    assert set(layers) == {LayerAttention("f16", False)}
    assert "key norm weight of layer 0 is" in words["attention"]


def test_one_layer_may_differ_from_the_others(specs: dict[str, TransformerSpec]) -> None:
    spec = specs["qwen3"]
    bad = spec.layers[1].k_norm

    def weights(norm: NormSpec) -> npt.NDArray[np.float32]:
        return norms(40.0 if norm == bad else 1.0)(norm)

    layers, words = plan_attention(spec, "q4", weights, CpuOptions())
    count = len(spec.layers)
    assert [layer.kv for layer in layers] == ["int8", "f16", *["int8"] * (count - 2)]
    assert words["kv"].startswith(f"int8 in {count - 1} of {count} layers, else f16: a key norm")
    assert words["attention"].startswith(f"int8 for prompts in {count - 1} of {count} layers: a key norm")
