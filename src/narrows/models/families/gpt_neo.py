"""GPT-Neo: learned positions, global and local layers in turn, attention without a scale."""

from __future__ import annotations

from narrows.errors import InvalidModel, UnsupportedModel
from narrows.models.config import ModelConfig
from narrows.models.families.blocks import Tensors, expect_rows, matrix, norm, plain_mlp, separate_attention
from narrows.models.families.frame import activation, head_size, read_frame
from narrows.models.spec import LayerSpec, TransformerSpec


def build(config: ModelConfig, tensors: Tensors, max_context: int | None) -> TransformerSpec:
    del max_context  # learned positions end where the table ends
    frame = read_frame(
        config,
        tensors,
        embedding="transformer.wte.weight",
        head="lm_head.weight",
        layers="transformer.h.",
        tied=True,
        layers_key="num_layers",
    )
    positions = "transformer.wpe.weight"
    num_positions = matrix(tensors, positions, frame.hidden)
    expect_rows(positions, num_positions, config.integer("max_position_embeddings"))
    head_dim = head_size(config, frame.hidden, heads_key="num_heads")
    kinds = _kinds(config, frame.num_layers)
    return TransformerSpec(
        family=config.model_type,
        hidden=frame.hidden,
        vocab=frame.vocab,
        max_positions=num_positions,
        layers=tuple(
            _layer(config, tensors, f"transformer.h.{i}", frame.hidden, head_dim, kind)
            for i, kind in enumerate(kinds)
        ),
        embedding=frame.embedding,
        final_norm=norm(tensors, "transformer.ln_f", frame.hidden, bias=True),
        head=frame.head,
        norm="layer",
        norm_eps=config.number("layer_norm_epsilon", 1e-5),
        position_embedding=positions,
        notes=frame.notes,
    )


def _kinds(config: ModelConfig, num_layers: int) -> tuple[str, ...]:
    """attention_types such as [[["global", "local"], 4]], written out for each layer."""
    groups = config.values.get("attention_types", [[["global", "local"], num_layers // 2]])
    try:
        kinds = tuple(str(name) for names, count in groups for _ in range(count) for name in names)
    except (TypeError, ValueError) as error:
        raise InvalidModel(
            f'{config.source}: attention_types is {groups!r}; expected [[["global", "local"], n]]'
        ) from error
    if len(kinds) != num_layers:
        raise InvalidModel(
            f"{config.source}: attention_types describes {len(kinds)} layers but num_layers is {num_layers}"
        )
    unknown = set(kinds) - {"global", "local"}
    if unknown:
        raise UnsupportedModel(
            f"{config.source}: attention type {min(unknown)!r} is not supported; global and local are"
        )
    return kinds


def _layer(
    config: ModelConfig, tensors: Tensors, prefix: str, hidden: int, head_dim: int, kind: str
) -> LayerSpec:
    names = (f"{prefix}.attn.attention.{part}_proj" for part in ("q", "k", "v", "out"))
    attention = separate_attention(
        tensors, *names, hidden=hidden, head_dim=head_dim, qkv_bias=False, out_bias=True
    )
    mlp = plain_mlp(tensors, f"{prefix}.mlp.c_fc", f"{prefix}.mlp.c_proj", hidden=hidden)
    return LayerSpec(
        heads=attention.heads,
        kv_heads=attention.kv_heads,
        head_dim=head_dim,
        intermediate=mlp.intermediate,
        qkv=attention.qkv,
        out=attention.out,
        up=mlp.up,
        down=mlp.down,
        norm_attn=norm(tensors, f"{prefix}.ln_1", hidden, bias=True),
        norm_mlp=norm(tensors, f"{prefix}.ln_2", hidden, bias=True),
        window=config.integer("window_size", 256) if kind == "local" else 0,
        rope=None,
        attention_scale=1.0,
        gated=False,
        activation=activation(config, "activation_function", "gelu_new"),
    )
