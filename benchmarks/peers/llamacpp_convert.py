"""Turns a folder made by shapes.py into a GGUF file for llama.cpp: bf16 first, then its own
quantizer.

Runs in llama.cpp's environment (llama-cpp-python, gguf, numpy). The tokenizer is written too, so
that loading costs llama.cpp what it would cost with a real model.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import gguf
import llama_cpp
import numpy as np

NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}
FILE_TYPES = {
    "q4_0": llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_0,
    "q4_k_m": llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_K_M,
    "q8_0": llama_cpp.LLAMA_FTYPE_MOSTLY_Q8_0,
}


def gguf_name(name: str) -> str:
    """model.layers.3.mlp.up_proj.weight -> blk.3.ffn_up.weight"""
    if name == "model.embed_tokens.weight":
        return "token_embd.weight"
    if name == "model.norm.weight":
        return "output_norm.weight"
    if name == "lm_head.weight":
        return "output.weight"
    parts = name.removeprefix("model.layers.").removesuffix(".weight").split(".", 1)
    return f"blk.{parts[0]}.{NAMES[parts[1]]}.weight"


def permute(rows: np.ndarray, heads: int) -> np.ndarray:
    """llama.cpp's `llama` architecture stores q and k for interleaved rotary pairs."""
    out, width = rows.shape
    return rows.reshape(heads, 2, out // heads // 2, width).swapaxes(1, 2).reshape(out, width)


def add_tokenizer(writer: gguf.GGUFWriter, path: Path, vocab: int) -> None:
    """The BPE vocabulary of a tokenizer.json, padded to `vocab` tokens."""
    data = json.loads(path.read_text())
    tokens = [f"[PAD{i}]" for i in range(vocab)]
    kinds = [gguf.TokenType.UNUSED] * vocab
    for token, index in data["model"]["vocab"].items():
        if index < vocab:
            tokens[index], kinds[index] = token, gguf.TokenType.NORMAL
    for entry in data.get("added_tokens", []):
        if entry["id"] < vocab:
            tokens[entry["id"]], kinds[entry["id"]] = (
                entry["content"],
                gguf.TokenType.CONTROL,
            )
    merges = [m if isinstance(m, str) else " ".join(m) for m in data["model"]["merges"]]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2" if vocab > 150000 else "gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    writer.add_token_merges(merges)


def write_bf16(folder: Path, target: Path) -> None:
    """The whole checkpoint as a bf16 GGUF (norms f32)."""
    config = json.loads((folder / "config.json").read_text())
    architecture = config["model_type"]
    writer = gguf.GGUFWriter(str(target), architecture)
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_key_length(config["head_dim"])
    writer.add_value_length(config["head_dim"])
    writer.add_rope_freq_base(config["rope_theta"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_dimension_count(config["head_dim"])
    writer.add_vocab_size(config["vocab_size"])
    writer.add_file_type(llama_cpp.LLAMA_FTYPE_MOSTLY_BF16)
    add_tokenizer(writer, folder / "tokenizer.json", config["vocab_size"])
    source = np.memmap(folder / "model.safetensors", np.uint8, "r")
    size = int(source[:8].view(np.uint64)[0])
    header = json.loads(bytes(source[8 : 8 + size]))
    heads = {
        "self_attn.q_proj": config["num_attention_heads"],
        "self_attn.k_proj": config["num_key_value_heads"],
    }
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        begin, end = (8 + size + offset for offset in entry["data_offsets"])
        bits = source[begin:end].view(np.uint16).reshape(entry["shape"])
        if bits.ndim == 1:
            writer.add_tensor(gguf_name(name), (bits.astype(np.uint32) << 16).view(np.float32))
            continue
        for part, count in heads.items():
            if architecture == "llama" and part in name:
                bits = permute(bits, count)
        raw = np.ascontiguousarray(bits)
        writer.add_tensor(
            gguf_name(name),
            raw.view(np.uint8),
            raw_shape=(raw.shape[0], raw.shape[1] * 2),
            raw_dtype=gguf.GGMLQuantizationType.BF16,
        )
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file(progress=False)
    writer.close()


def quantize(source: Path, target: Path, kind: str) -> None:
    """llama.cpp's own quantizer, no importance matrix."""
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype = FILE_TYPES[kind]
    params.nthread = 2
    code = llama_cpp.llama_model_quantize(str(source).encode(), str(target).encode(), params)
    if code != 0:
        raise SystemExit(f"llama_model_quantize({kind}) failed with {code}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("kind", choices=sorted(FILE_TYPES))
    parser.add_argument("target", type=Path)
    arguments = parser.parse_args()
    full = arguments.target.with_suffix(".bf16")
    try:
        write_bf16(arguments.folder, full)
        quantize(full, arguments.target, arguments.kind)
    finally:
        full.unlink(missing_ok=True)


if __name__ == "__main__":
    main()
