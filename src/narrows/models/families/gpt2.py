"""GPT-2: learned positions, LayerNorm, transposed (Conv1D) matrices, plain MLP."""

from __future__ import annotations

from narrows.models.config import ModelConfig
from narrows.models.families.blocks import (
    Tensors,
    expect_rows,
    head_count,
    linear,
    matrix,
    norm,
    plain_mlp,
    vector,
)
from narrows.models.families.frame import activation, head_size, read_frame
from narrows.models.spec import LayerSpec, LinearSpec, TensorSlice, TransformerSpec


def build(config: ModelConfig, tensors: Tensors, max_context: int | None) -> TransformerSpec:
    del max_context  # learned positions end where the table ends
    prefix = "transformer." if "transformer.wte.weight" in tensors else ""  # the first checkpoints have none
    frame = read_frame(
        config,
        tensors,
        embedding=f"{prefix}wte.weight",
        head="lm_head.weight",
        layers=f"{prefix}h.",
        tied=True,
        hidden_key="hidden_size" if config.has("hidden_size") else "n_embd",
        layers_key="num_hidden_layers" if config.has("num_hidden_layers") else "n_layer",
    )
    positions = f"{prefix}wpe.weight"
    num_positions = matrix(tensors, positions, frame.hidden)
    expect_rows(positions, num_positions, config.integer("n_positions", num_positions))
    head_dim = head_size(config, frame.hidden, heads_key="n_head")
    return TransformerSpec(
        family=config.model_type,
        hidden=frame.hidden,
        vocab=frame.vocab,
        max_positions=num_positions,
        layers=tuple(_layer(config, tensors, f"{prefix}h.{i}", i, head_dim) for i in range(frame.num_layers)),
        embedding=frame.embedding,
        final_norm=norm(tensors, f"{prefix}ln_f", frame.hidden, bias=True),
        head=frame.head,
        norm="layer",
        norm_eps=config.number("layer_norm_epsilon", 1e-5),
        position_embedding=positions,
        notes=frame.notes,
    )


def _layer(config: ModelConfig, tensors: Tensors, prefix: str, index: int, head_dim: int) -> LayerSpec:
    hidden = tensors.shape(f"{prefix}.ln_1.weight")[0]
    qkv = f"{prefix}.attn.c_attn"
    rows = matrix(tensors, f"{qkv}.weight", hidden, transpose=True)
    heads = head_count(f"{qkv}.weight", rows, 3 * head_dim)
    scale = head_dim**-0.5 if config.boolean("scale_attn_weights", True) else 1.0
    if config.boolean("scale_attn_by_inverse_layer_idx", False):
        scale /= index + 1
    mlp = plain_mlp(tensors, f"{prefix}.mlp.c_fc", f"{prefix}.mlp.c_proj", hidden=hidden, transpose=True)
    return LayerSpec(
        heads=heads,
        kv_heads=heads,
        head_dim=head_dim,
        intermediate=mlp.intermediate,
        qkv=LinearSpec(
            (TensorSlice(f"{qkv}.weight", transpose=True),),
            (TensorSlice(vector(tensors, f"{qkv}.bias", rows)),),
        ),
        out=linear(
            tensors, f"{prefix}.attn.c_proj", rows=hidden, columns=heads * head_dim, bias=True, transpose=True
        ),
        up=mlp.up,
        down=mlp.down,
        norm_attn=norm(tensors, f"{prefix}.ln_1", hidden, bias=True),
        norm_mlp=norm(tensors, f"{prefix}.ln_2", hidden, bias=True),
        rope=None,
        attention_scale=scale,
        gated=False,
        activation=activation(config, "activation_function", "gelu_new"),
    )
