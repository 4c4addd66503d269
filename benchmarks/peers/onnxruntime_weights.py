"""What an ONNX Runtime GenAI model really holds: its 4-bit matrices back as float32 under the checkpoint's
names, with the type and the bytes of each.

Runs in ONNX Runtime's environment: FOLDER MODEL TARGET.npz. A MatMulNBits holds [rows, blocks, block / 2]
bytes, the first of two inputs in the low half, and means scale * (code - zero), zero 8 where none is stored.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper


def matrix(node: onnx.NodeProto, arrays: dict[str, np.ndarray]) -> tuple[np.ndarray, int]:
    """Values [rows, inputs] and bytes."""
    facts = {entry.name: helper.get_attribute_value(entry) for entry in node.attribute}
    if facts["bits"] != 4:
        raise SystemExit(f"{node.name} has {facts['bits']} bits; this reads 4")
    packed, scales = arrays[node.input[1]], arrays[node.input[2]]
    num_bytes = packed.nbytes + scales.nbytes
    codes = np.stack((packed & 15, packed >> 4), axis=-1).reshape(facts["N"], -1, facts["block_size"])
    zeros = np.full(codes.shape[:2], 8)
    if len(node.input) > 3 and node.input[3]:
        raw = arrays[node.input[3]]
        num_bytes += raw.nbytes
        halves = np.stack((raw & 15, raw >> 4), axis=-1).reshape(facts["N"], -1)
        zeros = halves[:, : codes.shape[1]]
    values = (codes.astype(np.float32) - zeros[:, :, None]) * scales.reshape(facts["N"], -1, 1)
    return values.reshape(facts["N"], -1)[:, : facts["K"]], num_bytes


def checkpoint_parts(name: str, config: dict[str, int]) -> list[tuple[str, int]]:
    """Names and rows of a weight such as model.layers.0.attn.qkv_proj.MatMul.weight_Q4."""
    stem = name.split(".MatMul.")[0].replace(".attn.", ".self_attn.")
    if stem == "lm_head":
        tied = config.get("tie_word_embeddings")
        return [("model.embed_tokens.weight" if tied else "lm_head.weight", config["vocab_size"])]
    if not stem.endswith("qkv_proj"):
        return [(stem + ".weight", -1)]
    heads = (
        config["num_attention_heads"],
        config["num_key_value_heads"],
        config["num_key_value_heads"],
    )
    return [
        (stem.replace("qkv_proj", f"{part}_proj") + ".weight", count * config["head_dim"])
        for part, count in zip("qkv", heads, strict=True)
    ]


def main() -> None:
    folder, model_folder, target = (Path(argument) for argument in sys.argv[1:4])
    config = json.loads((folder / "config.json").read_text())
    graph = onnx.load(model_folder / "model.onnx").graph
    arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    values, types = {}, {}
    for node in graph.node:
        if node.op_type != "MatMulNBits":
            continue
        rows, num_bytes = matrix(node, arrays)
        begin = 0
        for name, count in checkpoint_parts(node.input[1], config):
            end = len(rows) if count < 0 else begin + count
            values[name] = rows[begin:end].astype(np.float32)
            types[name] = ("int4", num_bytes * (end - begin) // len(rows))
            begin = end
    np.savez(target, **values, types=json.dumps(types))


if __name__ == "__main__":
    main()
