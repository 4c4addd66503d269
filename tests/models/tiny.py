"""Tiny random models of every family, as transformers saves them: a table of variants.

In: a variant's name and a folder. Out: a saved model folder (weights rounded to bf16 values, stored in
float32) and the transformers model in float32.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers

torch.set_num_threads(1)  # tiny matrices: more threads only wait for each other

SMALL: dict[str, Any] = {
    "vocab_size": 96,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "bos_token_id": 1,
    "eos_token_id": None,
    "pad_token_id": None,
}
GPT2 = {"vocab_size": 96, "n_embd": 48, "n_layer": 3, "n_head": 4, "n_positions": 128, "bos_token_id": 1}
NEOX = {key: value for key, value in SMALL.items() if key != "num_key_value_heads"} | {"rotary_pct": 0.34}
GEMMA = {**SMALL, "head_dim": 16, "query_pre_attn_scalar": 24, "num_hidden_layers": 4}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
YARN = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 32}
LONG = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "short_factor": [1.0, 1.1, 1.2, 1.3, 1.4, 1.5],
    "long_factor": [2.0, 2.5, 3.0, 3.5, 4.0, 4.5],
}


def _layers(kinds: str) -> list[str]:
    names = {"s": "sliding_attention", "f": "full_attention"}
    return [names[kind] for kind in kinds]


NEO: dict[str, Any] = {
    "vocab_size": 96,
    "hidden_size": 48,
    "num_layers": 4,
    "num_heads": 4,
    "intermediate_size": 80,
    "max_position_embeddings": 128,
    "attention_types": [[["global", "local"], 2]],
    "window_size": 6,
    "bos_token_id": 1,
    "eos_token_id": None,
}

# variant -> (config class, head class, settings)
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("Llama", SMALL),
    "llama_tied": ("Llama", {**SMALL, "tie_word_embeddings": True}),
    "llama_biases": ("Llama", {**SMALL, "attention_bias": True, "mlp_bias": True}),
    "llama_wide_heads": ("Llama", {**SMALL, "head_dim": 20, "num_key_value_heads": 1}),
    "llama_odd_sizes": (
        "Llama",
        {
            **SMALL,
            "vocab_size": 101,
            "intermediate_size": 77,
            "hidden_size": 56,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "head_dim": 22,
        },
    ),
    "llama3_rope": ("Llama", {**SMALL, "rope_parameters": LLAMA3}),
    "llama_linear_rope": (
        "Llama",
        {**SMALL, "rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 4.0}},
    ),
    "llama_yarn_rope": ("Llama", {**SMALL, "rope_parameters": YARN}),
    "llama_gelu": ("Llama", {**SMALL, "hidden_act": "gelu"}),
    "mistral": ("Mistral", {**SMALL, "sliding_window": None}),
    "mistral_window": ("Mistral", {**SMALL, "sliding_window": 7}),
    "qwen2": ("Qwen2", SMALL),
    "qwen2_window": (
        "Qwen2",
        {
            **SMALL,
            "use_sliding_window": True,
            "sliding_window": 5,
            "max_window_layers": 1,
            "tie_word_embeddings": True,
        },
    ),
    "qwen3": ("Qwen3", {**SMALL, "head_dim": 16}),
    "qwen3_tied_biases": (
        "Qwen3",
        {**SMALL, "head_dim": 16, "attention_bias": True, "tie_word_embeddings": True},
    ),
    "gemma": ("Gemma", {**SMALL, "head_dim": 16}),
    "gemma2": ("Gemma2", {**GEMMA, "sliding_window": 6}),
    "gemma2_tight_caps": (
        "Gemma2",
        {
            **GEMMA,
            "num_hidden_layers": 2,
            "sliding_window": 64,
            "attn_logit_softcapping": 1.0,
            "final_logit_softcapping": 2.0,
        },
    ),
    "gemma3": ("Gemma3", {**GEMMA, "sliding_window": 6, "layer_types": _layers("sfsf")}),
    "gemma3_pattern": ("Gemma3", {**GEMMA, "sliding_window": 9, "num_hidden_layers": 7}),
    "phi3": ("Phi3", {**SMALL, "sliding_window": 9}),
    "phi3_longrope": ("Phi3", {**SMALL, "rope_parameters": LONG, "original_max_position_embeddings": 96}),
    "phi3_partial": ("Phi3", {**SMALL, "partial_rotary_factor": 0.5}),
    "gpt2": ("GPT2", GPT2),
    "gpt2_scaled_by_layer": ("GPT2", {**GPT2, "scale_attn_by_inverse_layer_idx": True, "n_inner": 56}),
    "gpt2_untied": ("GPT2", {**GPT2, "tie_word_embeddings": False}),
    "gpt_neox": ("GPTNeoX", NEOX),
    "gpt_neox_serial": (
        "GPTNeoX",
        {**NEOX, "use_parallel_residual": False, "rotary_pct": 0.5, "attention_bias": False},
    ),
    "gpt_neo": ("GPTNeo", NEO),
}


def save_tiny(variant: str, folder: Path, *, seed: int = 0, dtype: torch.dtype = torch.float32) -> Any:
    """Saves a variant and returns the transformers model."""
    name, settings = VARIANTS[variant]
    config_name = "Gemma3TextConfig" if name == "Gemma3" else f"{name}Config"
    head_name = "GPT2LMHeadModel" if name == "GPT2" else f"{name}ForCausalLM"
    config = getattr(transformers, config_name)(**settings)
    config._attn_implementation = "eager"
    torch.manual_seed(seed)
    model = getattr(transformers, head_name)(config).eval()
    _randomize(model, tied=bool(config.tie_word_embeddings))
    model = model.to(dtype)
    model.save_pretrained(folder)
    return model


def _randomize(model: torch.nn.Module, *, tied: bool) -> None:
    """Weights large enough that every part matters, rounded to bf16; norms and biases differ from 1 and 0."""
    draw: Callable[..., torch.Tensor] = torch.randn
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() == 2:
                std = 1.4 / parameter.shape[1] ** 0.5
                if "wpe" in name:
                    std = 0.5
                elif (
                    "embed" in name or "wte" in name
                ):  # tied and large, a model would only repeat its last token
                    std = 0.05 if tied else 0.5
                parameter.copy_(draw(parameter.shape) * std)
            else:
                centre = parameter.mean()
                parameter.copy_(centre + 0.2 * draw(parameter.shape))
            parameter.copy_(parameter.to(torch.bfloat16).float())


def prompt(length: int, *, vocab: int = 96, seed: int = 1) -> list[int]:
    generator = torch.Generator().manual_seed(seed)
    return [int(i) for i in torch.randint(0, vocab, (length,), generator=generator)]


@torch.no_grad()
def transformers_greedy(model: Any, prompt_ids: list[int], num_tokens: int) -> tuple[list[int], torch.Tensor]:
    """Greedy tokens and the logits that chose them, by the model's own cached generation."""
    out = model.generate(
        torch.tensor([prompt_ids]),
        attention_mask=torch.ones(1, len(prompt_ids), dtype=torch.long),
        max_new_tokens=num_tokens,
        min_new_tokens=num_tokens,
        do_sample=False,
        output_logits=True,
        return_dict_in_generate=True,
        pad_token_id=0,
    )
    return out.sequences[0, len(prompt_ids) :].tolist(), torch.cat(out.logits)
