"""A bare config.json gives the spec that its checkpoint gives, for every family."""

from __future__ import annotations

from pathlib import Path

import pytest

from narrows.errors import InvalidModel, UnsupportedModel
from narrows.models.checkpoint import open_checkpoint
from narrows.models.config import ModelConfig, read_config
from narrows.models.families import build_spec
from narrows.models.families.outline import Outline, spec_from_config
from tests.models.tiny import VARIANTS, save_tiny


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_config_gives_the_spec_of_its_checkpoint(variant: str, tmp_path: Path) -> None:
    save_tiny(variant, tmp_path)
    config, checkpoint = read_config(tmp_path), open_checkpoint(tmp_path)
    assert spec_from_config(config) == build_spec(config, checkpoint)
    outline = Outline(config)
    assert {name: outline.shape(name) for name in outline} == {
        name: checkpoint.shape(name) for name in checkpoint if name in outline
    }
    assert {outline.dtype(name) for name in outline} == {"F32"}


def test_what_is_unknown_or_missing_is_named() -> None:
    with pytest.raises(UnsupportedModel, match="'mamba' is not supported; supported: gemma"):
        spec_from_config(ModelConfig({"model_type": "mamba"}))
    with pytest.raises(InvalidModel, match="has no hidden_size"):
        spec_from_config(ModelConfig({"model_type": "llama", "vocab_size": 8}))
    small = {
        "model_type": "gpt_neox",
        "vocab_size": 8,
        "hidden_size": 8,
        "intermediate_size": 8,
        "num_attention_heads": 2,
        "num_hidden_layers": 1,
    }
    with pytest.raises(InvalidModel, match="promises no tensor 'missing'"):
        Outline(ModelConfig(small)).shape("missing")
