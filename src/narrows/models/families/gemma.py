"""Gemma 1, 2 and 3 (text): norms store weight - 1, embeddings are scaled; 2 and 3 mix local and global.

In: config, tensor shapes. Out: TransformerSpec.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from narrows.errors import UnsupportedModel
from narrows.models.config import ModelConfig
from narrows.models.families.blocks import Tensors
from narrows.models.families.decoder import DecoderStyle, build_decoder, decoder_frame
from narrows.models.families.frame import Frame, activation, layer_windows
from narrows.models.rope import make_rope, rope_parameters
from narrows.models.spec import RopeSpec, TransformerSpec

DEFAULT_HEAD_DIM = 256
DEFAULT_WINDOW = 4096
GEMMA3_PATTERN = 6  # every sixth layer is global


def build_gemma(config: ModelConfig, tensors: Tensors, max_context: int | None) -> TransformerSpec:
    frame = decoder_frame(config, tensors, tied=True)
    style = _style(config, tensors, frame, ropes=(_rope(config, max_context),))
    if config.values.get("hidden_act") in (None, "gelu"):  # early files say "gelu" and mean the tanh form
        style = replace(style, activation="gelu_tanh")
    return build_decoder(config, tensors, frame=frame, style=style)


def build_gemma2(config: ModelConfig, tensors: Tensors, max_context: int | None) -> TransformerSpec:
    frame = decoder_frame(config, tensors, tied=True)
    layer_types = _layer_types(config, frame.num_layers, pattern=2)
    style = replace(
        _style(config, tensors, frame, ropes=(_rope(config, max_context),)),
        windows=layer_windows(config, layer_types, config.integer("sliding_window", DEFAULT_WINDOW)),
        attention_scale=config.number("query_pre_attn_scalar", 256.0) ** -0.5,
        attention_softcap=config.optional_number("attn_logit_softcapping", 50.0),
        final_softcap=config.optional_number("final_logit_softcapping", 30.0),
        sandwich=True,
        activation=activation(config, "hidden_activation", "gelu_pytorch_tanh"),
    )
    return build_decoder(config, tensors, frame=frame, style=style)


def build_gemma3(config: ModelConfig, tensors: Tensors, max_context: int | None) -> TransformerSpec:
    if config.has("attn_logit_softcapping"):
        raise UnsupportedModel(
            f"{config.source}: attn_logit_softcapping is set, which gemma3_text does not use"
        )
    frame = decoder_frame(config, tensors, tied=True)
    pattern = config.integer("sliding_window_pattern", GEMMA3_PATTERN)
    layer_types = _layer_types(config, frame.num_layers, pattern=pattern)
    far = rope_parameters(config, layer_type="full_attention", theta=1_000_000.0)
    near = rope_parameters(config, layer_type="sliding_attention", theta_key="rope_local_base_freq")
    head_dim = config.integer("head_dim", DEFAULT_HEAD_DIM)
    style = replace(
        _style(
            config,
            tensors,
            frame,
            ropes=(make_rope(far, head_dim, max_context=max_context), make_rope(near, head_dim)),
        ),
        windows=layer_windows(config, layer_types, config.integer("sliding_window", DEFAULT_WINDOW)),
        rope_of_layer=tuple(int(name == "sliding_attention") for name in layer_types),
        attention_scale=config.number("query_pre_attn_scalar", 256.0) ** -0.5,
        final_softcap=config.optional_number("final_logit_softcapping", 0.0)
        if config.has("final_logit_softcapping")
        else 0.0,
        sandwich=True,
        qk_norm=True,
        activation=activation(config, "hidden_activation", "gelu_pytorch_tanh"),
    )
    return build_decoder(config, tensors, frame=frame, style=style)


def _style(
    config: ModelConfig, tensors: Tensors, frame: Frame, *, ropes: tuple[RopeSpec, ...]
) -> DecoderStyle:
    """What the three generations share."""
    head_dim = config.integer("head_dim", DEFAULT_HEAD_DIM)
    bias = config.boolean("attention_bias", False)
    return DecoderStyle(
        head_dim=head_dim,
        ropes=ropes,
        windows=(0,) * frame.num_layers,
        rope_of_layer=(0,) * frame.num_layers,
        attention_scale=head_dim**-0.5,
        qkv_bias=bias,
        out_bias=bias,
        add_one=True,
        activation=activation(config, default="gelu_pytorch_tanh"),
        embedding_scale=embedding_scale(frame.hidden, tensors.dtype(frame.embedding)),
    )


def _rope(config: ModelConfig, max_context: int | None) -> RopeSpec:
    return make_rope(
        rope_parameters(config), config.integer("head_dim", DEFAULT_HEAD_DIM), max_context=max_context
    )


def _layer_types(config: ModelConfig, num_layers: int, *, pattern: int) -> tuple[str, ...]:
    by_rule = tuple("sliding_attention" if (i + 1) % pattern else "full_attention" for i in range(num_layers))
    return config.names("layer_types", num_layers) or by_rule


def embedding_scale(hidden: int, dtype: str) -> float:
    """sqrt(hidden) as the checkpoint's dtype holds it: the models were trained with the rounded number."""
    root = np.float32(hidden**0.5)
    if dtype == "BF16":
        bits = int(root.view(np.uint32))
        bits += 0x7FFF + ((bits >> 16) & 1)  # round to nearest even in the upper 16 bits
        return float(np.uint32(bits & 0xFFFF0000).view(np.float32))
    return float(np.float16(root)) if dtype == "F16" else float(root)
