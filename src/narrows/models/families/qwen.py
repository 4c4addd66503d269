"""Qwen2 and Qwen2.5 (biases on q, k and v) and Qwen3 (norms on q and k); windows on some layers."""

from __future__ import annotations

from narrows.models.config import ModelConfig
from narrows.models.families.blocks import Tensors
from narrows.models.families.decoder import DecoderStyle, build_decoder, decoder_frame
from narrows.models.families.frame import activation, head_size, layer_windows
from narrows.models.rope import make_rope, rope_parameters
from narrows.models.spec import TransformerSpec

DEFAULT_WINDOW = 4096
DEFAULT_MAX_WINDOW_LAYERS = 28
QWEN3_HEAD_DIM = 128


def build_qwen2(config: ModelConfig, tensors: Tensors, max_context: int | None) -> TransformerSpec:
    return _build(config, tensors, max_context, qkv_bias=True, out_bias=False, qk_norm=False, head_dim=None)


def build_qwen3(config: ModelConfig, tensors: Tensors, max_context: int | None) -> TransformerSpec:
    bias = config.boolean("attention_bias", False)
    head_dim = config.integer("head_dim", QWEN3_HEAD_DIM)  # never hidden_size / heads in this family
    return _build(config, tensors, max_context, qkv_bias=bias, out_bias=bias, qk_norm=True, head_dim=head_dim)


def _build(
    config: ModelConfig,
    tensors: Tensors,
    max_context: int | None,
    *,
    qkv_bias: bool,
    out_bias: bool,
    qk_norm: bool,
    head_dim: int | None,
) -> TransformerSpec:
    frame = decoder_frame(config, tensors)
    size = head_dim or head_size(config, frame.hidden)
    style = DecoderStyle(
        head_dim=size,
        ropes=(make_rope(rope_parameters(config), size, max_context=max_context),),
        windows=_windows(config, frame.num_layers),
        rope_of_layer=(0,) * frame.num_layers,
        attention_scale=size**-0.5,
        qkv_bias=qkv_bias,
        out_bias=out_bias,
        qk_norm=qk_norm,
        activation=activation(config),
    )
    return build_decoder(config, tensors, frame=frame, style=style)


def _windows(config: ModelConfig, num_layers: int) -> tuple[int, ...]:
    """Layers from max_window_layers on slide, where use_sliding_window is set or layer_types says so."""
    used = config.boolean("use_sliding_window", False)
    window = config.integer("sliding_window", DEFAULT_WINDOW) if used else 0
    first = config.integer("max_window_layers", DEFAULT_MAX_WINDOW_LAYERS, minimum=0)
    by_rule = tuple(
        "sliding_attention" if used and i >= first else "full_attention" for i in range(num_layers)
    )
    return layer_windows(config, config.names("layer_types", num_layers) or by_rule, window)
