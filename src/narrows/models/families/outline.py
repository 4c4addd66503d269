"""The tensors a config.json promises, by name and shape: a spec without weights.

In: ModelConfig. Out: Outline, which answers a family's builder as the shapes of a checkpoint would. All
families are covered. What only a checkpoint can say is not known here: layers of different widths (a pruned
model), a stored head that differs from the embedding it should be tied to.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from narrows.errors import InvalidModel, UnsupportedModel
from narrows.models.config import ModelConfig
from narrows.models.families import FAMILIES, build_spec
from narrows.models.families.frame import head_size
from narrows.models.families.gemma import DEFAULT_HEAD_DIM
from narrows.models.families.qwen import QWEN3_HEAD_DIM
from narrows.models.spec import TransformerSpec

Shapes = dict[str, tuple[int, ...]]
_DTYPES: Final = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}
_TIED: Final = ("gemma", "gemma2", "gemma3_text", "gpt2", "gpt_neo")  # where config.json does not say


class Outline:
    """Tensors of families.blocks without values."""

    def __init__(self, config: ModelConfig) -> None:
        write = _WRITERS.get(config.model_type)
        if write is None:
            raise UnsupportedModel(
                f"{config.source}: model_type {config.model_type!r} is not supported; "
                f"supported: {', '.join(FAMILIES)}"
            )
        self._source = config.source
        self._shapes = write(config)
        name = config.values.get("dtype") or config.values.get("torch_dtype") or "float32"
        self._dtype = _DTYPES.get(str(name), "F32")

    def __contains__(self, name: object, /) -> bool:
        return name in self._shapes

    def __iter__(self) -> Iterator[str]:
        return iter(self._shapes)

    def shape(self, name: str) -> tuple[int, ...]:
        if name not in self._shapes:
            raise InvalidModel(f"{self._source} promises no tensor {name!r}, which its family reads")
        return self._shapes[name]

    def dtype(self, name: str) -> str:
        self.shape(name)
        return self._dtype

    def equal(self, first: str, second: str) -> bool:
        """What is tied is equal here; a checkpoint may break that."""
        return self.shape(first) == self.shape(second)


def spec_from_config(config: ModelConfig, *, max_context: int | None = None) -> TransformerSpec:
    """The spec of a bare config.json: as of a checkpoint whose layers are all as wide as the config says."""
    return build_spec(config, Outline(config), max_context=max_context)


def _linear(
    shapes: Shapes, prefix: str, rows: int, columns: int, *, bias: bool, transpose: bool = False
) -> None:
    shapes[f"{prefix}.weight"] = (columns, rows) if transpose else (rows, columns)
    if bias:
        shapes[f"{prefix}.bias"] = (rows,)


def _norm(shapes: Shapes, prefix: str, length: int, *, bias: bool = False) -> None:
    shapes[f"{prefix}.weight"] = (length,)
    if bias:
        shapes[f"{prefix}.bias"] = (length,)


def _frame(config: ModelConfig, embedding: str, head: str, hidden: int) -> Shapes:
    shapes: Shapes = {embedding: (config.integer("vocab_size"), hidden)}
    if not config.boolean("tie_word_embeddings", config.model_type in _TIED):
        shapes[head] = (config.integer("vocab_size"), hidden)
    return shapes


def _decoder_head_size(config: ModelConfig, hidden: int) -> int:
    if config.model_type.startswith("gemma"):
        return config.integer("head_dim", DEFAULT_HEAD_DIM)
    if config.model_type == "qwen3":
        return config.integer("head_dim", QWEN3_HEAD_DIM)
    return head_size(config, hidden)


def _decoder(config: ModelConfig) -> Shapes:
    """Llama and its descendants; Phi-3 stores q, k, v and gate, up fused."""
    hidden, family = config.integer("hidden_size"), config.model_type
    shapes = _frame(config, "model.embed_tokens.weight", "lm_head.weight", hidden)
    size = _decoder_head_size(config, hidden)
    heads = config.integer("num_attention_heads")
    attended, kept = heads * size, config.integer("num_key_value_heads", heads) * size
    width = config.integer("intermediate_size")
    asked = config.boolean("attention_bias", False) and family not in ("mistral", "qwen2", "phi3")
    qkv_bias, mlp_bias = asked or family == "qwen2", family == "llama" and config.boolean("mlp_bias", False)
    norms = ["input_layernorm", "post_attention_layernorm"]
    if family in ("gemma2", "gemma3_text"):
        norms += ["pre_feedforward_layernorm", "post_feedforward_layernorm"]
    for index in range(config.integer("num_hidden_layers")):
        prefix = f"model.layers.{index}"
        attention, mlp = f"{prefix}.self_attn", f"{prefix}.mlp"
        if family == "phi3":
            _linear(shapes, f"{attention}.qkv_proj", attended + 2 * kept, hidden, bias=False)
            _linear(shapes, f"{mlp}.gate_up_proj", 2 * width, hidden, bias=False)
        else:
            for name, rows in (("q", attended), ("k", kept), ("v", kept)):
                _linear(shapes, f"{attention}.{name}_proj", rows, hidden, bias=qkv_bias)
            for name in ("gate", "up"):
                _linear(shapes, f"{mlp}.{name}_proj", width, hidden, bias=mlp_bias)
        _linear(shapes, f"{attention}.o_proj", hidden, attended, bias=asked)
        _linear(shapes, f"{mlp}.down_proj", hidden, width, bias=mlp_bias)
        for name in norms:
            _norm(shapes, f"{prefix}.{name}", hidden)
        if family in ("qwen3", "gemma3_text"):
            _norm(shapes, f"{attention}.q_norm", size)
            _norm(shapes, f"{attention}.k_norm", size)
    _norm(shapes, "model.norm", hidden)
    return shapes


def _gpt2(config: ModelConfig) -> Shapes:
    hidden = config.integer("hidden_size" if config.has("hidden_size") else "n_embd")
    layers = config.integer("num_hidden_layers" if config.has("num_hidden_layers") else "n_layer")
    width = config.integer("n_inner", 4 * hidden)
    shapes = _frame(config, "transformer.wte.weight", "lm_head.weight", hidden)
    shapes["transformer.wpe.weight"] = (config.integer("n_positions"), hidden)
    heads = config.integer("n_head")
    attended = heads * head_size(config, hidden, heads_key="n_head")
    for index in range(layers):
        prefix = f"transformer.h.{index}"
        _linear(shapes, f"{prefix}.attn.c_attn", 3 * attended, hidden, bias=True, transpose=True)
        _linear(shapes, f"{prefix}.attn.c_proj", hidden, attended, bias=True, transpose=True)
        _linear(shapes, f"{prefix}.mlp.c_fc", width, hidden, bias=True, transpose=True)
        _linear(shapes, f"{prefix}.mlp.c_proj", hidden, width, bias=True, transpose=True)
        _norm(shapes, f"{prefix}.ln_1", hidden, bias=True)
        _norm(shapes, f"{prefix}.ln_2", hidden, bias=True)
    _norm(shapes, "transformer.ln_f", hidden, bias=True)
    return shapes


def _gpt_neo(config: ModelConfig) -> Shapes:
    hidden = config.integer("hidden_size")
    width = config.integer("intermediate_size", 4 * hidden)
    attended = config.integer("num_heads") * head_size(config, hidden, heads_key="num_heads")
    shapes = _frame(config, "transformer.wte.weight", "lm_head.weight", hidden)
    shapes["transformer.wpe.weight"] = (config.integer("max_position_embeddings"), hidden)
    for index in range(config.integer("num_layers")):
        prefix = f"transformer.h.{index}"
        for name in "qkv":
            _linear(shapes, f"{prefix}.attn.attention.{name}_proj", attended, hidden, bias=False)
        _linear(shapes, f"{prefix}.attn.attention.out_proj", hidden, attended, bias=True)
        _linear(shapes, f"{prefix}.mlp.c_fc", width, hidden, bias=True)
        _linear(shapes, f"{prefix}.mlp.c_proj", hidden, width, bias=True)
        _norm(shapes, f"{prefix}.ln_1", hidden, bias=True)
        _norm(shapes, f"{prefix}.ln_2", hidden, bias=True)
    _norm(shapes, "transformer.ln_f", hidden, bias=True)
    return shapes


def _gpt_neox(config: ModelConfig) -> Shapes:
    hidden, width = config.integer("hidden_size"), config.integer("intermediate_size")
    attended = config.integer("num_attention_heads") * head_size(config, hidden)
    bias = config.boolean("attention_bias", True)
    shapes = _frame(config, "gpt_neox.embed_in.weight", "embed_out.weight", hidden)
    for index in range(config.integer("num_hidden_layers")):
        prefix = f"gpt_neox.layers.{index}"
        _linear(shapes, f"{prefix}.attention.query_key_value", 3 * attended, hidden, bias=bias)
        _linear(shapes, f"{prefix}.attention.dense", hidden, attended, bias=bias)
        _linear(shapes, f"{prefix}.mlp.dense_h_to_4h", width, hidden, bias=True)
        _linear(shapes, f"{prefix}.mlp.dense_4h_to_h", hidden, width, bias=True)
        _norm(shapes, f"{prefix}.input_layernorm", hidden, bias=True)
        _norm(shapes, f"{prefix}.post_attention_layernorm", hidden, bias=True)
    _norm(shapes, "gpt_neox.final_layer_norm", hidden, bias=True)
    return shapes


_PLAIN: Final[dict[str, Callable[[ModelConfig], Shapes]]] = {
    "gpt2": _gpt2,
    "gpt_neo": _gpt_neo,
    "gpt_neox": _gpt_neox,
}
_WRITERS: Final = {family: _PLAIN.get(family, _decoder) for family in FAMILIES}
