"""Puts a spec and its packed weights together into the native model.

In: TransformerSpec, PackedWeights, checkpoint. Out: _core.Model. Knows no requests.
"""

from __future__ import annotations

import numpy as np

from narrows import _core
from narrows.errors import InvalidModel
from narrows.models.checkpoint import Checkpoint
from narrows.models.spec import LayerSpec, TensorSlice, TransformerSpec
from narrows.runners.attention import LayerAttention
from narrows.runners.plan import head_linear
from narrows.runners.weights import PackedWeights


def build_model(
    spec: TransformerSpec,
    weights: PackedWeights,
    checkpoint: Checkpoint,
    *,
    attention: tuple[LayerAttention, ...],
) -> _core.Model:
    """The native model; it keeps the arrays it reads alive."""
    head = weights.linear(head_linear(spec))
    positions = None
    if spec.position_embedding is not None:
        table = weights.floats((TensorSlice(spec.position_embedding),))
        positions = table.reshape(spec.max_positions, spec.hidden)
    try:
        return _core.Model(
            hidden=spec.hidden,
            vocab=spec.vocab,
            max_positions=spec.max_positions,
            norm=spec.norm,
            norm_eps=spec.norm_eps,
            embedding_scale=spec.embedding_scale,
            final_softcap=spec.final_softcap,
            ropes=[(np.array(rope.inv_freq, dtype=np.float32), rope.attention_factor) for rope in spec.ropes],
            layers=[_build_layer(*pair, weights) for pair in zip(spec.layers, attention, strict=True)],
            embedding=head if weights.plan.rows is None else checkpoint.take(TensorSlice(weights.plan.rows)),
            position_rows=positions,
            final_norm=weights.norm(spec.final_norm),
            head=head,
        )
    except ValueError as error:  # sizes beyond what the core takes, such as a head of 2048 entries
        raise InvalidModel(f"the native core refuses this model: {error}") from error


def _build_layer(layer: LayerSpec, attention: LayerAttention, weights: PackedWeights) -> _core.Layer:
    return _core.Layer(
        heads=layer.heads,
        kv_heads=layer.kv_heads,
        head_dim=layer.head_dim,
        intermediate=layer.intermediate,
        window=layer.window,
        rope=-1 if layer.rope is None else layer.rope,
        attention_scale=layer.attention_scale,
        attention_softcap=layer.attention_softcap,
        gated=layer.gated,
        activation=layer.activation,
        parallel_residual=layer.parallel_residual,
        kv=attention.kv,
        int8_attention=attention.int8_prompts,
        qkv=weights.linear(layer.qkv),
        out=weights.linear(layer.out),
        up=weights.linear(layer.up),
        down=weights.linear(layer.down),
        norm_attn=weights.norm(layer.norm_attn),
        norm_mlp=weights.norm(layer.norm_mlp),
        post_attn=weights.norm(layer.post_attn),
        post_mlp=weights.norm(layer.post_mlp),
        q_norm=weights.norm(layer.q_norm),
        k_norm=weights.norm(layer.k_norm),
    )
