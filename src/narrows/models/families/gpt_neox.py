"""GPT-NeoX and Pythia: q, k and v interleaved head by head, partial rotation, parallel residual."""

from __future__ import annotations

from narrows.models.config import ModelConfig
from narrows.models.families.blocks import Tensors, head_count, linear, matrix, norm, plain_mlp, vector
from narrows.models.families.frame import Frame, activation, head_size, read_frame
from narrows.models.rope import make_rope, rope_parameters
from narrows.models.spec import LayerSpec, LinearSpec, TensorSlice, TransformerSpec


def build(config: ModelConfig, tensors: Tensors, max_context: int | None) -> TransformerSpec:
    frame = read_frame(
        config,
        tensors,
        embedding="gpt_neox.embed_in.weight",
        head="embed_out.weight",
        layers="gpt_neox.layers.",
        tied=False,
    )
    head_dim = head_size(config, frame.hidden)
    parameters = rope_parameters(config, theta_key="rotary_emb_base")
    share = parameters.optional("partial_rotary_factor") or config.number("rotary_pct", 0.25)
    return TransformerSpec(
        family=config.model_type,
        hidden=frame.hidden,
        vocab=frame.vocab,
        max_positions=config.integer("max_position_embeddings"),
        layers=tuple(_layer(config, tensors, frame, i, head_dim) for i in range(frame.num_layers)),
        embedding=frame.embedding,
        final_norm=norm(tensors, "gpt_neox.final_layer_norm", frame.hidden, bias=True),
        head=frame.head,
        norm="layer",
        norm_eps=config.number("layer_norm_eps", 1e-5),
        ropes=(make_rope(parameters, int(head_dim * share), max_context=max_context),),
        notes=frame.notes,
    )


def split_rows(heads: int, head_dim: int) -> tuple[int, ...]:
    """Rows of the fused [heads, 3, head_dim] matrix in the order all q, all k, all v."""
    return tuple(
        (head * 3 + part) * head_dim + i
        for part in range(3)
        for head in range(heads)
        for i in range(head_dim)
    )


def _layer(config: ModelConfig, tensors: Tensors, frame: Frame, index: int, head_dim: int) -> LayerSpec:
    prefix, hidden = f"gpt_neox.layers.{index}", frame.hidden
    fused = f"{prefix}.attention.query_key_value"
    rows = matrix(tensors, f"{fused}.weight", hidden)
    heads = head_count(f"{fused}.weight", rows, 3 * head_dim)
    order = split_rows(heads, head_dim)
    bias = config.boolean("attention_bias", True)
    biases = (TensorSlice(vector(tensors, f"{fused}.bias", rows), rows=order),) if bias else ()
    mlp = plain_mlp(tensors, f"{prefix}.mlp.dense_h_to_4h", f"{prefix}.mlp.dense_4h_to_h", hidden=hidden)
    return LayerSpec(
        heads=heads,
        kv_heads=heads,
        head_dim=head_dim,
        intermediate=mlp.intermediate,
        qkv=LinearSpec((TensorSlice(f"{fused}.weight", rows=order),), biases),
        out=linear(tensors, f"{prefix}.attention.dense", rows=hidden, columns=heads * head_dim, bias=bias),
        up=mlp.up,
        down=mlp.down,
        norm_attn=norm(tensors, f"{prefix}.input_layernorm", hidden, bias=True),
        norm_mlp=norm(tensors, f"{prefix}.post_attention_layernorm", hidden, bias=True),
        attention_scale=head_dim**-0.5,
        gated=False,
        activation=activation(config, default="gelu"),
        parallel_residual=config.boolean("use_parallel_residual", True),
    )
