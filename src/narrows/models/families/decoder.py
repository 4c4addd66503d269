"""The common shape of Llama's descendants: RMS norms, rotary positions, separate q/k/v, gated MLP.

In: config, tensor shapes and a DecoderStyle saying where a family differs. Out: TransformerSpec.
"""

from __future__ import annotations

from dataclasses import dataclass

from narrows.models.config import ModelConfig
from narrows.models.families.blocks import Tensors, gated_mlp, norm, separate_attention
from narrows.models.families.frame import Frame, read_frame
from narrows.models.spec import Activation, LayerSpec, NormSpec, RopeSpec, TransformerSpec


@dataclass(frozen=True, slots=True)
class DecoderStyle:
    """Where a descendant of Llama differs from it."""

    head_dim: int
    ropes: tuple[RopeSpec, ...]
    windows: tuple[int, ...]  # per layer, 0: full attention
    rope_of_layer: tuple[int, ...]
    attention_scale: float
    qkv_bias: bool = False
    out_bias: bool = False
    mlp_bias: bool = False
    qk_norm: bool = False
    add_one: bool = False  # norms store weight - 1
    sandwich: bool = False  # norms on the outputs of attention and MLP as well (Gemma 2 and 3)
    activation: Activation = "silu"
    attention_softcap: float = 0.0
    final_softcap: float = 0.0
    embedding_scale: float = 1.0


def decoder_frame(config: ModelConfig, tensors: Tensors, *, tied: bool = False) -> Frame:
    """Embedding, head and number of layers under Llama's names."""
    return read_frame(
        config,
        tensors,
        embedding="model.embed_tokens.weight",
        head="lm_head.weight",
        layers="model.layers.",
        tied=tied,
    )


def build_decoder(
    config: ModelConfig, tensors: Tensors, *, frame: Frame, style: DecoderStyle, notes: tuple[str, ...] = ()
) -> TransformerSpec:
    """The whole model."""
    return TransformerSpec(
        family=config.model_type,
        hidden=frame.hidden,
        vocab=frame.vocab,
        max_positions=config.integer("max_position_embeddings"),
        layers=tuple(_layer(tensors, index, frame.hidden, style) for index in range(frame.num_layers)),
        embedding=frame.embedding,
        final_norm=norm(tensors, "model.norm", frame.hidden, add_one=style.add_one),
        head=frame.head,
        norm="rms",
        norm_eps=config.number("rms_norm_eps", 1e-6),
        embedding_scale=style.embedding_scale,
        final_softcap=style.final_softcap,
        ropes=style.ropes,
        notes=frame.notes + notes,
    )


def _layer(tensors: Tensors, index: int, hidden: int, style: DecoderStyle) -> LayerSpec:
    prefix = f"model.layers.{index}"
    q, k, v, out = (f"{prefix}.self_attn.{part}_proj" for part in "qkvo")
    attention = separate_attention(
        tensors,
        q,
        k,
        v,
        out,
        hidden=hidden,
        head_dim=style.head_dim,
        qkv_bias=style.qkv_bias,
        out_bias=style.out_bias,
    )
    mlp = gated_mlp(tensors, f"{prefix}.mlp", hidden=hidden, bias=style.mlp_bias)

    def of(name: str, length: int, wanted: bool = True) -> NormSpec | None:
        return norm(tensors, f"{prefix}.{name}", length, add_one=style.add_one) if wanted else None

    # "post_attention_layernorm" is the norm before the MLP in Llama, and the one after attention in Gemma 2
    # and 3.
    before_mlp = "pre_feedforward_layernorm" if style.sandwich else "post_attention_layernorm"
    return LayerSpec(
        heads=attention.heads,
        kv_heads=attention.kv_heads,
        head_dim=style.head_dim,
        intermediate=mlp.intermediate,
        qkv=attention.qkv,
        out=attention.out,
        up=mlp.up,
        down=mlp.down,
        norm_attn=of("input_layernorm", hidden),
        norm_mlp=of(before_mlp, hidden),
        post_attn=of("post_attention_layernorm", hidden, style.sandwich),
        post_mlp=of("post_feedforward_layernorm", hidden, style.sandwich),
        q_norm=of("self_attn.q_norm", style.head_dim, style.qk_norm),
        k_norm=of("self_attn.k_norm", style.head_dim, style.qk_norm),
        window=style.windows[index],
        rope=style.rope_of_layer[index],
        attention_scale=style.attention_scale,
        attention_softcap=style.attention_softcap,
        activation=style.activation,
    )
