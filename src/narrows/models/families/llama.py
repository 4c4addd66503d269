"""Llama 2 and 3, SmolLM, TinyLlama: the plain decoder, with optional biases."""

from __future__ import annotations

from narrows.models.config import ModelConfig
from narrows.models.families.blocks import Tensors
from narrows.models.families.decoder import DecoderStyle, build_decoder, decoder_frame
from narrows.models.families.frame import activation, head_size
from narrows.models.rope import make_rope, rope_parameters
from narrows.models.spec import TransformerSpec


def build(config: ModelConfig, tensors: Tensors, max_context: int | None) -> TransformerSpec:
    frame = decoder_frame(config, tensors)
    head_dim = head_size(config, frame.hidden)
    attention_bias = config.boolean("attention_bias", False)
    style = DecoderStyle(
        head_dim=head_dim,
        ropes=(make_rope(rope_parameters(config), head_dim, max_context=max_context),),
        windows=(0,) * frame.num_layers,
        rope_of_layer=(0,) * frame.num_layers,
        attention_scale=head_dim**-0.5,
        qkv_bias=attention_bias,
        out_bias=attention_bias,
        mlp_bias=config.boolean("mlp_bias", False),
        activation=activation(config),
    )
    return build_decoder(config, tensors, frame=frame, style=style)
