"""Writes a trained model as a Hugging Face Llama folder, and reads such a folder back.

Inputs: a model and a tokenizer. Outputs: config.json, model.safetensors (bf16, tied), the tokenizer's files,
generation_config.json. Does not write the model card: its words are for a person.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer

from narrows.demo.train.config import ModelShape
from narrows.demo.train.model import StoryModel
from narrows.demo.train.tokenizer import END_OF_TEXT, END_OF_TURN, save_tokenizer, token_id
from narrows.errors import InvalidModel


def model_config(shape: ModelShape, tokenizer: Tokenizer) -> dict[str, Any]:
    """The `config.json` of this shape."""
    end_of_text, end_of_turn = (token_id(tokenizer, token) for token in (END_OF_TEXT, END_OF_TURN))
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": shape.vocab_size,
        "hidden_size": shape.hidden_size,
        "intermediate_size": shape.intermediate_size,
        "num_hidden_layers": shape.num_layers,
        "num_attention_heads": shape.num_heads,
        "num_key_value_heads": shape.num_kv_heads,
        "head_dim": shape.head_dim,
        "hidden_act": "silu",
        "max_position_embeddings": shape.max_positions,
        "rope_theta": shape.rope_theta,
        "rms_norm_eps": shape.rms_norm_eps,
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": True,
        "bos_token_id": end_of_text,
        "eos_token_id": [end_of_turn, end_of_text],
        "pad_token_id": end_of_text,
        "torch_dtype": "bfloat16",
        "dtype": "bfloat16",
    }


def generation_config(tokenizer: Tokenizer) -> dict[str, Any]:
    """Sampling that suits stories, and both tokens that end one."""
    end_of_text, end_of_turn = (token_id(tokenizer, token) for token in (END_OF_TEXT, END_OF_TURN))
    return {
        "bos_token_id": end_of_text,
        "eos_token_id": [end_of_turn, end_of_text],
        "pad_token_id": end_of_text,
        "do_sample": True,
        "temperature": 0.7,
        "top_p": 0.9,
    }


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def export_model(model: StoryModel, tokenizer: Tokenizer, folder: Path) -> None:
    """Writes the folder; the weights appear under their final name only when they are whole."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {
        f"model.{name}": tensor.detach().to("cpu", torch.bfloat16).contiguous()
        for name, tensor in model.named_parameters()
    }
    unfinished = folder / "model.safetensors.part"
    save_file(tensors, str(unfinished), metadata={"format": "pt"})
    # The writer makes the file private; an installed package must be readable by everyone.
    unfinished.chmod(0o644)
    unfinished.replace(folder / "model.safetensors")
    _write_json(folder / "config.json", model_config(model.shape, tokenizer))
    _write_json(folder / "generation_config.json", generation_config(tokenizer))
    save_tokenizer(tokenizer, folder, model.shape.max_positions)


def load_exported(folder: Path) -> tuple[StoryModel, Tokenizer]:
    """The model (its bf16 weights widened to fp32) and the tokenizer of an exported folder.

    Raises InvalidModel where the folder lacks a file or was not written by `export_model`.
    """
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        if not (folder / name).is_file():
            raise InvalidModel(f"{folder} has no {name}; give the folder of a finished model")
    try:
        return _load(folder)
    # The tokenizers library raises nothing narrower than Exception.
    except Exception as error:
        raise InvalidModel(
            f"{folder} does not read as a model this program wrote ({type(error).__name__}: {error})"
        ) from error


def _load(folder: Path) -> tuple[StoryModel, Tokenizer]:
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    shape = ModelShape(
        hidden_size=config["hidden_size"],
        num_layers=config["num_hidden_layers"],
        intermediate_size=config["intermediate_size"],
        num_heads=config["num_attention_heads"],
        num_kv_heads=config["num_key_value_heads"],
        head_dim=config["head_dim"],
        vocab_size=config["vocab_size"],
        rope_theta=config["rope_theta"],
        rms_norm_eps=config["rms_norm_eps"],
        max_positions=config["max_position_embeddings"],
    )
    model = StoryModel(shape)
    tensors = load_file(str(folder / "model.safetensors"))
    model.load_state_dict({name.removeprefix("model."): tensor.float() for name, tensor in tensors.items()})
    return model.eval(), Tokenizer.from_file(str(folder / "tokenizer.json"))
