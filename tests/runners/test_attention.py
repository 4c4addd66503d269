"""When prompts attend in integers: the weights, the options and the model's own keys decide."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from narrows.models.checkpoint import open_checkpoint
from narrows.models.config import read_config
from narrows.models.families import build_spec
from narrows.models.spec import TensorSlice, TransformerSpec
from narrows.runners.attention import int8_attention
from narrows.runners.options import CpuOptions
from tests.models.tiny import save_tiny


class Norms:
    """Every vector is ones but for one entry."""

    def __init__(self, largest: float) -> None:
        self._largest = largest

    def floats(self, parts: tuple[TensorSlice, ...]) -> npt.NDArray[np.float32]:
        weight = np.ones(128, dtype=np.float32)
        weight[5] = self._largest
        return weight


@pytest.fixture(scope="module")
def specs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, TransformerSpec]:
    made = {}
    for name in ("llama_tied", "qwen2", "qwen3"):
        folder = tmp_path_factory.mktemp(name)
        save_tiny(name, folder)
        made[name] = build_spec(read_config(Path(folder)), open_checkpoint(folder))
    return made


def test_it_is_for_4_bit_weights_over_f16_keys(specs: dict[str, TransformerSpec]) -> None:
    def chosen(weights: str, **options: object) -> tuple[bool, str]:
        return int8_attention(specs["llama_tied"], weights, Norms(1), CpuOptions(**options))  # type: ignore[arg-type]

    assert chosen("q4") == (True, "int8 for prompts, f32 for answers")
    assert chosen("q8") == (False, "f32, beside q8 weights")
    assert chosen("q4", kv_dtype="f32") == (False, "f32, over f32 keys")
    assert chosen("q4", attention="f32") == (False, "f32, as asked for")
    assert chosen("bf16", attention="int8") == (True, "int8, as asked for")


def test_models_whose_keys_have_outliers_keep_float_attention(specs: dict[str, TransformerSpec]) -> None:
    assert int8_attention(specs["qwen2"], "q4", Norms(1), CpuOptions()) == (
        False,
        "f32: layer 0 has key biases",
    )
    assert int8_attention(specs["qwen3"], "q4", Norms(4), CpuOptions())[0]
    does, why = int8_attention(specs["qwen3"], "q4", Norms(-40), CpuOptions())
    assert not does
    assert "key norm weight of layer 0 is" in why
