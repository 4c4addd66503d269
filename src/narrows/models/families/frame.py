"""What surrounds the layers: embedding, head, number of layers, activation names.

In: config and tensor shapes. Out: the pieces every family's builder needs. Knows no layer.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from narrows.errors import InvalidModel, UnsupportedModel
from narrows.models.config import ModelConfig
from narrows.models.families.blocks import Tensors, expect_rows, matrix
from narrows.models.spec import Activation, LinearSpec, TensorSlice

ACTIVATIONS: Final[dict[str, Activation]] = {
    "silu": "silu",
    "swish": "silu",
    "gelu": "gelu_erf",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "relu": "relu",
    "relu2": "relu2",
}


@dataclass(frozen=True, slots=True)
class Frame:
    """Embedding and head of a model."""

    hidden: int
    vocab: int
    num_layers: int
    embedding: str
    head: LinearSpec | None  # None: tied to the embedding
    notes: tuple[str, ...] = ()


def read_frame(
    config: ModelConfig,
    tensors: Tensors,
    *,
    embedding: str,
    head: str,
    layers: str,
    tied: bool,
    hidden_key: str = "hidden_size",
    layers_key: str = "num_hidden_layers",
) -> Frame:
    """Reads and checks what surrounds the layers; `layers` is the prefix of layer 0 up to its number."""
    hidden = config.integer(hidden_key)
    vocab = matrix(tensors, embedding, hidden)
    expect_rows(embedding, vocab, config.integer("vocab_size"))
    num_layers = config.integer(layers_key)
    _check_layers(config, tensors, layers, num_layers, layers_key)
    notes: tuple[str, ...] = ()
    if config.boolean("tie_word_embeddings", tied) and head in tensors and not tensors.equal(head, embedding):
        notes = (f"config.json ties the head to the embedding, but {head} differs from it; {head} is used",)
    elif config.boolean("tie_word_embeddings", tied):
        return Frame(hidden, vocab, num_layers, embedding, None)
    expect_rows(head, matrix(tensors, head, hidden), vocab)
    return Frame(hidden, vocab, num_layers, embedding, LinearSpec((TensorSlice(head),)), notes)


def _check_layers(config: ModelConfig, tensors: Tensors, prefix: str, num_layers: int, key: str) -> None:
    """A checkpoint with more layers than its config would silently be cut; one with fewer cannot run."""
    pattern = re.compile(re.escape(prefix) + r"(\d+)\.")
    stored = {int(match[1]) for name in tensors if (match := pattern.match(name))}
    if stored != set(range(num_layers)):
        raise InvalidModel(
            f"{config.source}: {key} is {num_layers}, but the tensors hold {len(stored)} layers "
            f"({_ranges(stored)}); the files do not belong together"
        )


def _ranges(numbers: set[int]) -> str:
    return f"{min(numbers)} to {max(numbers)}" if numbers else "none"


def head_size(config: ModelConfig, hidden: int, *, heads_key: str = "num_attention_heads") -> int:
    """Entries of one head: head_dim, or hidden_size / num_attention_heads."""
    if config.has("head_dim"):
        size = config.integer("head_dim")
    else:
        heads = config.integer(heads_key)
        if hidden % heads:
            raise InvalidModel(
                f"{config.source}: the hidden size {hidden} is no multiple of {heads_key} {heads}; give "
                f"head_dim"
            )
        size = hidden // heads
    return size


def activation(config: ModelConfig, key: str = "hidden_act", default: str = "silu") -> Activation:
    """The MLP's activation by its Hugging Face name."""
    name = config.text(key, default)
    if name not in ACTIVATIONS:
        raise UnsupportedModel(
            f"{config.source}: {key} {name!r} is not supported; supported: {', '.join(sorted(ACTIVATIONS))}"
        )
    return ACTIVATIONS[name]


def layer_windows(config: ModelConfig, layer_types: tuple[str, ...], window: int) -> tuple[int, ...]:
    """The attention window of each layer from its type's name."""
    known = {"full_attention": 0, "sliding_attention": window}
    for name in layer_types:
        if name not in known:
            raise UnsupportedModel(
                f"{config.source}: layer type {name!r} is not supported; supported: {', '.join(known)}"
            )
    if window == 0 and "sliding_attention" in layer_types:
        raise InvalidModel(
            f"{config.source}: layer_types has sliding_attention but sliding_window is not set"
        )
    return tuple(known[name] for name in layer_types)
