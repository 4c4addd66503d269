"""What a GGUF file really holds: its matrices back as float32 under the checkpoint's names, with the type and
the bytes of each.

Runs in llama.cpp's environment: FOLDER FILE TARGET.npz. Undoes what llamacpp_convert.py did to names and
rows.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import gguf
import numpy as np
from llamacpp_convert import NAMES


def checkpoint_name(name: str) -> str:
    """blk.3.ffn_up.weight -> model.layers.3.mlp.up_proj.weight"""
    known = {
        "token_embd.weight": "model.embed_tokens.weight",
        "output.weight": "lm_head.weight",
    }
    if name in known:
        return known[name]
    _, layer, part, _ = name.split(".")
    return f"model.layers.{layer}.{ {theirs: ours for ours, theirs in NAMES.items()}[part] }.weight"


def unpermute(rows: np.ndarray, heads: int) -> np.ndarray:
    """The inverse of llamacpp_convert.permute."""
    out, width = rows.shape
    return rows.reshape(heads, out // heads // 2, 2, width).swapaxes(1, 2).reshape(out, width)


def main() -> None:
    folder, file, target = (Path(argument) for argument in sys.argv[1:4])
    config = json.loads((folder / "config.json").read_text())
    heads = {
        "q_proj": config["num_attention_heads"],
        "k_proj": config["num_key_value_heads"],
    }
    values, types = {}, {}
    for tensor in gguf.GGUFReader(file).tensors:
        if len(tensor.shape) < 2:
            continue
        name = checkpoint_name(tensor.name)
        rows = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        part = name.split(".")[-2]
        if config["model_type"] == "llama" and part in heads:
            rows = unpermute(rows, heads[part])
        values[name] = rows.astype(np.float32)
        types[name] = (tensor.tensor_type.name, int(tensor.n_bytes))
    np.savez(target, **values, types=json.dumps(types))


if __name__ == "__main__":
    main()
