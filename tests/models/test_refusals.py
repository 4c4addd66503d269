"""Models that do not run here, or contradict themselves, are refused by name and with both numbers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from narrows.errors import InvalidModel, UnsupportedModel
from narrows.models.checkpoint import open_checkpoint
from narrows.models.config import read_config
from narrows.models.families import FAMILIES, build_spec
from narrows.models.spec import TransformerSpec
from tests.models.tiny import save_tiny


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("llama")
    save_tiny("llama", folder)
    return folder


def load(
    saved: Path,
    folder: Path,
    *,
    config: dict[str, Any] | None = None,
    edit: Callable[[dict[str, Any]], None] | None = None,
) -> TransformerSpec:
    """The saved model with changed config values and tensors."""
    values = json.loads((saved / "config.json").read_text())
    values.update(config or {})
    (folder / "config.json").write_text(
        json.dumps({key: value for key, value in values.items() if value != "DELETE"})
    )
    tensors = load_file(saved / "model.safetensors")
    if edit is not None:
        edit(tensors)
    save_file(tensors, folder / "model.safetensors")
    return build_spec(read_config(folder), open_checkpoint(folder))


def test_an_unsupported_family_is_refused_with_the_list_of_supported_ones(
    saved: Path, tmp_path: Path
) -> None:
    with pytest.raises(UnsupportedModel, match="model_type 'mamba' is not supported") as caught:
        load(saved, tmp_path, config={"model_type": "mamba", "architectures": ["MambaForCausalLM"]})
    assert all(name in str(caught.value) for name in FAMILIES)
    with pytest.raises(UnsupportedModel, match=r"LlamaForSequenceClassification .* LlamaForCausalLM"):
        load(saved, tmp_path, config={"architectures": ["LlamaForSequenceClassification"]})


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("quantization_config", {"quant_method": "gptq", "bits": 4}),
        ("num_local_experts", 8),
        ("is_encoder_decoder", True),
        ("add_cross_attention", True),
        ("kv_lora_rank", 512),
    ],
)
def test_features_that_are_not_run_are_refused_by_name(
    saved: Path, tmp_path: Path, setting: str, value: object
) -> None:
    with pytest.raises(UnsupportedModel, match=setting):
        load(saved, tmp_path, config={setting: value})
    load(saved, tmp_path, config={setting: None})


@pytest.mark.parametrize("kind", ["dynamic", "proportional", "mystery"])
@pytest.mark.parametrize("key", ["rope_scaling", "rope_parameters"])
def test_unknown_rope_types_are_refused_by_name(saved: Path, tmp_path: Path, kind: str, key: str) -> None:
    changes = {"rope_parameters": None, "rope_theta": 10000.0, key: {"rope_type": kind, "factor": 2.0}}
    with pytest.raises(
        UnsupportedModel, match=f"rope type '{kind}' is not supported; supported: default, linear, llama3"
    ):
        load(saved, tmp_path, config=changes)


def test_old_and_new_rope_settings_mean_the_same(saved: Path, tmp_path: Path) -> None:
    scaled = {
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 32,
    }
    new = load(
        saved, tmp_path, config={"rope_parameters": {"rope_type": "llama3", "rope_theta": 5e5, **scaled}}
    )
    old = load(
        saved,
        tmp_path,
        config={
            "rope_parameters": "DELETE",
            "rope_theta": 5e5,
            "rope_scaling": {"rope_type": "llama3", **scaled},
        },
    )
    oldest = load(
        saved,
        tmp_path,
        config={"rope_parameters": "DELETE", "rope_theta": 5e5, "rope_scaling": {"type": "llama3", **scaled}},
    )
    plain = load(
        saved, tmp_path, config={"rope_parameters": "DELETE", "rope_theta": 5e5, "rope_scaling": None}
    )
    assert new.ropes == old.ropes == oldest.ropes
    assert new.ropes != plain.ropes


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"hidden_size": 64}, "embed_tokens.weight .* takes 48 inputs, but .* say 64"),
        ({"vocab_size": 97}, "embed_tokens.weight has 96 rows, but .* say 97"),
        ({"num_hidden_layers": 4}, r"num_hidden_layers is 4, but the tensors hold 3 layers \(0 to 2\)"),
        ({"num_hidden_layers": 2}, "num_hidden_layers is 2, but the tensors hold 3 layers"),
        ({"head_dim": 10}, "has 48 rows, which is no multiple of config.json's head size 10"),
        ({"head_dim": 7}, "rope rotates 7 dimensions; it must be an even number"),
        ({"hidden_act": "tanhexp"}, "hidden_act 'tanhexp' is not supported; supported: gelu"),
        ({"num_hidden_layers": "three"}, "num_hidden_layers is 'three'; it must be a whole number"),
        ({"rms_norm_eps": -1.0}, "rms_norm_eps is -1.0; it must be a number above 0"),
        ({"rms_norm_eps": float("nan")}, "rms_norm_eps is nan"),
        ({"max_position_embeddings": None}, "has no max_position_embeddings"),
        ({"attention_bias": "yes"}, "attention_bias is 'yes'; it must be true or false"),
        ({"attention_bias": True}, "tensor 'model.layers.0.self_attn.q_proj.bias' is missing"),
        ({"architectures": "LlamaForCausalLM"}, "architectures is"),
        ({"rope_parameters": [1]}, r"rope_parameters is \[1\]; it must be an object"),
        ({"rope_parameters": {"rope_type": "linear"}}, "rope type 'linear' needs factor"),
        ({"rope_parameters": {"rope_type": "default", "rope_theta": -5}}, "rope_theta is -5"),
        (
            {"rope_parameters": {"rope_type": "yarn", "rope_theta": 1.0, "factor": 2.0}},
            "rope_theta is 1; .* exceed",
        ),
        (
            {
                "rope_parameters": {"rope_type": "longrope", "rope_theta": 1e4, "short_factor": [1.0] * 6},
                "original_max_position_embeddings": 1,
            },
            "the original context is 1; it must exceed 1",
        ),
    ],
)
def test_a_config_that_contradicts_the_tensors_is_refused_with_both_numbers(
    saved: Path, tmp_path: Path, config: dict[str, Any], message: str
) -> None:
    with pytest.raises(InvalidModel, match=message):
        load(saved, tmp_path, config=config)


def replace(name: str, tensor: torch.Tensor | None) -> Callable[[dict[str, Any]], None]:
    def edit(tensors: dict[str, Any]) -> None:
        if tensor is None:
            del tensors[name]
        else:
            tensors[name] = tensor

    return edit


@pytest.mark.parametrize(
    ("name", "tensor", "message"),
    [
        ("model.norm.weight", None, "tensor 'model.norm.weight' is missing"),
        ("model.norm.weight", torch.ones(47), r"model.norm.weight has shape \[47\], but .* say \[48\]"),
        ("lm_head.weight", torch.ones(96, 40), "lm_head.weight .* takes 40 inputs"),
        ("lm_head.weight", torch.ones(90, 48), "lm_head.weight has 90 rows, but .* say 96"),
        (
            "model.layers.1.mlp.up_proj.weight",
            torch.ones(79, 48),
            "up_proj.weight has 79 rows, but .* say 80",
        ),
        (
            "model.layers.1.mlp.down_proj.weight",
            torch.ones(48, 79),
            "down_proj.weight .* takes 79 inputs, but .* 80",
        ),
        (
            "model.layers.1.self_attn.k_proj.weight",
            torch.ones(36, 48),
            "v_proj.weight has 24 rows, but .* say 36",
        ),
        (
            "model.layers.1.self_attn.q_proj.weight",
            torch.ones(36, 48),
            "3 query heads cannot share 2 key/value heads",
        ),
        (
            "model.layers.1.self_attn.q_proj.weight",
            torch.ones(48),
            r"has shape \[48\]; a matrix was expected",
        ),
        ("model.layers.1.self_attn.q_proj.weight", torch.ones(0, 48), "an empty matrix"),
    ],
)
def test_tensors_that_do_not_fit_are_named(
    saved: Path, tmp_path: Path, name: str, tensor: torch.Tensor | None, message: str
) -> None:
    with pytest.raises(InvalidModel, match=message):
        load(saved, tmp_path, edit=replace(name, tensor))


def test_tensors_without_a_place_are_refused_by_name(saved: Path, tmp_path: Path) -> None:
    extra = "model.layers.0.self_attn.q_proj.lora_A.weight"
    with pytest.raises(UnsupportedModel, match=f"1 tensors have no place in llama .* '{extra}'"):
        load(saved, tmp_path, edit=replace(extra, torch.ones(4, 48)))


def test_buffers_of_old_checkpoints_are_ignored(saved: Path, tmp_path: Path) -> None:
    load(saved, tmp_path, edit=replace("model.layers.0.self_attn.rotary_emb.inv_freq", torch.ones(6)))


def test_a_stored_head_beside_a_tied_config_counts_only_where_it_differs(saved: Path, tmp_path: Path) -> None:
    differing = load(saved, tmp_path, config={"tie_word_embeddings": True})
    assert differing.head is not None
    assert "lm_head.weight differs" in differing.notes[0]

    def copy(tensors: dict[str, Any]) -> None:
        tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()

    assert load(saved, tmp_path, config={"tie_word_embeddings": True}, edit=copy).head is None


@pytest.mark.parametrize("text", ["", "{", "[]", '"x"', "\xff\xfe", "{" * 100_000])
def test_a_damaged_config_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(InvalidModel, match="download it again"):
        read_config(tmp_path)


def test_a_missing_config_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidModel, match=r"config.json is missing"):
        read_config(tmp_path)
