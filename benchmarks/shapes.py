"""Random checkpoints in the real shapes of well-known models, for speed only.

Writes a Hugging Face folder (config.json, sharded bf16 safetensors, tokenizer.json where one is
given) whose weights are normal noise scaled as trained models' are. Speed does not depend on the
values; quality is not measured on these.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

SEED = 20


@dataclass(frozen=True, slots=True)
class Shape:
    """The sizes that decide the speed of a llama-like model."""

    model_type: str
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    vocab: int
    rope_theta: float
    tied: bool = True
    max_positions: int = 40960

    @property
    def body_params(self) -> int:
        attention = self.hidden * self.head_dim * (2 * self.heads + 2 * self.kv_heads)
        return self.layers * (attention + 3 * self.hidden * self.intermediate)

    @property
    def head_params(self) -> int:
        return self.vocab * self.hidden


SHAPES = {
    "qwen3-0.6b": Shape("qwen3", 1024, 28, 16, 8, 128, 3072, 151936, 1e6),
    "llama-3.2-1b": Shape("llama", 2048, 16, 32, 8, 64, 8192, 128256, 5e5, max_positions=131072),
    "qwen3-4b": Shape("qwen3", 2560, 36, 32, 8, 128, 9728, 151936, 1e6),
    "llama-3.1-8b": Shape(
        "llama", 4096, 32, 32, 8, 128, 14336, 128256, 5e5, tied=False, max_positions=131072
    ),
    "tiny": Shape("qwen3", 256, 2, 4, 2, 64, 512, 2048, 1e4, max_positions=4096),
}


def config(shape: Shape) -> dict[str, object]:
    """The config.json of a shape."""
    name = "Qwen3ForCausalLM" if shape.model_type == "qwen3" else "LlamaForCausalLM"
    return {
        "architectures": [name],
        "model_type": shape.model_type,
        "hidden_size": shape.hidden,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "head_dim": shape.head_dim,
        "intermediate_size": shape.intermediate,
        "vocab_size": shape.vocab,
        "max_position_embeddings": shape.max_positions,
        "rope_theta": shape.rope_theta,
        "rms_norm_eps": 1e-6 if shape.model_type == "qwen3" else 1e-5,
        "hidden_act": "silu",
        "attention_bias": False,
        "tie_word_embeddings": shape.tied,
        "torch_dtype": "bfloat16",
    }


def read(folder: Path) -> Shape:
    """The shape of any llama-like checkpoint, from its config.json."""
    values = json.loads((folder / "config.json").read_text())
    return Shape(
        model_type=values["model_type"],
        hidden=values["hidden_size"],
        layers=values["num_hidden_layers"],
        heads=values["num_attention_heads"],
        kv_heads=values["num_key_value_heads"],
        head_dim=values["head_dim"],
        intermediate=values["intermediate_size"],
        vocab=values["vocab_size"],
        rope_theta=values["rope_theta"],
        tied=values["tie_word_embeddings"],
        max_positions=values["max_position_embeddings"],
    )


def to_bf16(x: np.ndarray) -> np.ndarray:
    """float32 to bf16 bits (uint16), nearest even."""
    bits = x.astype(np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def tensors(shape: Shape) -> Iterator[tuple[str, np.ndarray]]:
    """Every tensor of a shape by its checkpoint name, as bf16 bits [out, in]."""
    rng = np.random.default_rng(SEED)

    def noise(rows: int, cols: int, std: float) -> np.ndarray:
        return to_bf16(rng.standard_normal((rows, cols), dtype=np.float32) * std)

    def ones(count: int) -> np.ndarray:
        return to_bf16(np.ones(count, dtype=np.float32))

    yield "model.embed_tokens.weight", noise(shape.vocab, shape.hidden, 0.03)
    sizes = {
        "self_attn.q_proj": (shape.heads * shape.head_dim, shape.hidden),
        "self_attn.k_proj": (shape.kv_heads * shape.head_dim, shape.hidden),
        "self_attn.v_proj": (shape.kv_heads * shape.head_dim, shape.hidden),
        "self_attn.o_proj": (shape.hidden, shape.heads * shape.head_dim),
        "mlp.gate_proj": (shape.intermediate, shape.hidden),
        "mlp.up_proj": (shape.intermediate, shape.hidden),
        "mlp.down_proj": (shape.hidden, shape.intermediate),
    }
    for layer in range(shape.layers):
        prefix = f"model.layers.{layer}."
        for name, (rows, cols) in sizes.items():
            yield f"{prefix}{name}.weight", noise(rows, cols, cols**-0.5)
        for name in ("input_layernorm", "post_attention_layernorm"):
            yield f"{prefix}{name}.weight", ones(shape.hidden)
        if shape.model_type == "qwen3":
            yield f"{prefix}self_attn.q_norm.weight", ones(shape.head_dim)
            yield f"{prefix}self_attn.k_norm.weight", ones(shape.head_dim)
    yield "model.norm.weight", ones(shape.hidden)
    if not shape.tied:
        yield "lm_head.weight", noise(shape.vocab, shape.hidden, shape.hidden**-0.5)


def write_safetensors(path: Path, named: Iterator[tuple[str, np.ndarray]]) -> None:
    """Streams bf16 tensors into one safetensors file, holding one tensor in memory at a time."""
    body = path.with_suffix(".body")
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    offset = 0
    with body.open("wb") as out:
        for name, data in named:
            header[name] = {
                "dtype": "BF16",
                "shape": list(data.shape),
                "data_offsets": [offset, offset + data.nbytes],
            }
            out.write(data.tobytes())
            offset += data.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as out, body.open("rb") as source:
        out.write(len(text).to_bytes(8, "little") + text)
        shutil.copyfileobj(source, out, 1 << 22)
    body.unlink()


def make(name: str, folder: Path, tokenizer: Path | None) -> Path:
    """Writes the checkpoint unless a complete one is there; returns its folder."""
    shape = SHAPES[name]
    if (folder / "config.json").exists():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    write_safetensors(folder / "model.safetensors", tensors(shape))
    if tokenizer is not None:
        shutil.copy(tokenizer, folder / "tokenizer.json")
    (folder / "config.json").write_text(
        json.dumps(config(shape), indent=1)
    )  # last: marks the folder complete
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("shape", choices=sorted(SHAPES))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--tokenizer", type=Path, help="a tokenizer.json to put beside the weights")
    arguments = parser.parse_args()
    print(make(arguments.shape, arguments.folder, arguments.tokenizer))


if __name__ == "__main__":
    main()
