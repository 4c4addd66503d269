"""Phi-3 and Phi-3.5: fused q/k/v and gate/up, partial rotation, LongRoPE."""

from __future__ import annotations

from narrows.errors import InvalidModel, UnsupportedModel
from narrows.models.config import ModelConfig
from narrows.models.families.blocks import (
    Tensors,
    check_groups,
    expect_rows,
    head_count,
    linear,
    matrix,
    norm,
)
from narrows.models.families.decoder import decoder_frame
from narrows.models.families.frame import Frame, activation, head_size
from narrows.models.rope import RopeParameters, make_rope, rope_parameters
from narrows.models.spec import LayerSpec, LinearSpec, TensorSlice, TransformerSpec

ROPE_TYPES = ("default", "longrope", "su", "yarn")  # old files call LongRoPE "su" or "yarn"


def build(config: ModelConfig, tensors: Tensors, max_context: int | None) -> TransformerSpec:
    frame = decoder_frame(config, tensors)
    head_dim = head_size(config, frame.hidden)
    parameters = _rope(config)
    share = parameters.optional("partial_rotary_factor") or config.number("partial_rotary_factor", 1.0)
    limit, notes = _context(config, parameters, max_context)
    return TransformerSpec(
        family=config.model_type,
        hidden=frame.hidden,
        vocab=frame.vocab,
        max_positions=limit,
        layers=tuple(_layer(config, tensors, frame, i, head_dim) for i in range(frame.num_layers)),
        embedding=frame.embedding,
        final_norm=norm(tensors, "model.norm", frame.hidden),
        head=frame.head,
        norm_eps=config.number("rms_norm_eps", 1e-5),
        ropes=(make_rope(parameters, int(head_dim * share), max_context=max_context),),
        notes=frame.notes + notes,
    )


def _rope(config: ModelConfig) -> RopeParameters:
    parameters = rope_parameters(config)
    if parameters.kind not in ROPE_TYPES:
        raise UnsupportedModel(
            f"{config.source}: rope type {parameters.kind!r} is not supported for phi3; supported: default, "
            f"longrope"
        )
    if parameters.kind in ("su", "yarn"):
        return RopeParameters(config, {**parameters.values, "rope_type": "longrope"}, parameters.theta)
    return parameters


def _context(
    config: ModelConfig, parameters: RopeParameters, max_context: int | None
) -> tuple[int, tuple[str, ...]]:
    """LongRoPE has two sets of frequencies; the short one, better for short texts, holds `original`."""
    longest, original = config.integer("max_position_embeddings"), int(parameters.original_positions)
    if parameters.kind != "longrope" or longest <= original or (max_context or 0) > original:
        return longest, ()
    return original, (
        f"the context is limited to {original} tokens; ask for a max_context up to {longest} to use the long "
        "rope factors",
    )


def _layer(config: ModelConfig, tensors: Tensors, frame: Frame, index: int, head_dim: int) -> LayerSpec:
    prefix = f"model.layers.{index}"
    qkv, out, up = (
        f"{prefix}.{name}" for name in ("self_attn.qkv_proj", "self_attn.o_proj", "mlp.gate_up_proj")
    )
    heads, kv_heads = _heads(tensors, f"{qkv}.weight", f"{out}.weight", frame.hidden, head_dim)
    fused = matrix(tensors, f"{up}.weight", frame.hidden)
    if fused % 2:
        raise InvalidModel(f"{up}.weight has {fused} rows; gate and up together must be an even number")
    width = fused // 2
    return LayerSpec(
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        intermediate=width,
        qkv=LinearSpec((TensorSlice(f"{qkv}.weight"),)),
        out=linear(tensors, out, rows=frame.hidden, columns=heads * head_dim, bias=False),
        up=LinearSpec(
            (TensorSlice(f"{up}.weight", 0, width), TensorSlice(f"{up}.weight", width, fused)),
            interleave=True,
        ),
        down=linear(tensors, f"{prefix}.mlp.down_proj", rows=frame.hidden, columns=width, bias=False),
        norm_attn=norm(tensors, f"{prefix}.input_layernorm", frame.hidden),
        norm_mlp=norm(tensors, f"{prefix}.post_attention_layernorm", frame.hidden),
        window=config.integer("sliding_window") if config.has("sliding_window") else 0,
        attention_scale=head_dim**-0.5,
        activation=activation(config),
    )


def _heads(tensors: Tensors, qkv: str, out: str, hidden: int, head_dim: int) -> tuple[int, int]:
    """Query heads are the inputs of o_proj; what is left of the fused rows is keys and values."""
    rows = matrix(tensors, qkv, hidden)
    shape = tensors.shape(out)
    query_rows = shape[1] if len(shape) == 2 else 0
    heads = head_count(out, query_rows, head_dim)
    kv_heads = head_count(qkv, max(rows - query_rows, 0), 2 * head_dim)
    if heads == 0 or kv_heads == 0:
        raise InvalidModel(f"{qkv} has {rows} rows, but {out} takes {query_rows} inputs; no heads are left")
    expect_rows(qkv, rows, (heads + 2 * kv_heads) * head_dim)
    check_groups(qkv, heads, kv_heads)
    return heads, kv_heads
