"""Mistral: Llama with a sliding window on every layer."""

from __future__ import annotations

from narrows.errors import UnsupportedModel
from narrows.models.config import ModelConfig
from narrows.models.families.blocks import Tensors
from narrows.models.families.decoder import DecoderStyle, build_decoder, decoder_frame
from narrows.models.families.frame import activation, head_size
from narrows.models.rope import make_rope, rope_parameters
from narrows.models.spec import TransformerSpec

DEFAULT_WINDOW = 4096  # of Mistral 7B v0.1; later checkpoints write "sliding_window": null


def build(config: ModelConfig, tensors: Tensors, max_context: int | None) -> TransformerSpec:
    frame = decoder_frame(config, tensors)
    head_dim = head_size(config, frame.hidden)
    if len(set(config.names("layer_types", frame.num_layers) or ())) > 1:
        raise UnsupportedModel(f"{config.source}: mistral with mixed layer_types is not supported")
    window = 0
    if "sliding_window" not in config.values:
        window = DEFAULT_WINDOW
    elif config.has("sliding_window"):
        window = config.integer("sliding_window")
    style = DecoderStyle(
        head_dim=head_dim,
        ropes=(make_rope(rope_parameters(config), head_dim, max_context=max_context),),
        windows=(window,) * frame.num_layers,
        rope_of_layer=(0,) * frame.num_layers,
        attention_scale=head_dim**-0.5,
        activation=activation(config),
    )
    return build_decoder(config, tensors, frame=frame, style=style)
