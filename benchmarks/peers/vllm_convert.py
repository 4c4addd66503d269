"""Turns a folder made by shapes.py into compressed-tensors checkpoints, which vLLM runs on a CPU.

Runs in vLLM's environment. int8: weights per channel, activations per token. int4: weights only, in
groups of 128. Plain rounding; embedding and head stay bf16, as in the checkpoints people publish.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import hf_folder
import torch
from safetensors import safe_open
from safetensors.torch import save_file

GROUP = 128
WEIGHTS = {"type": "int", "symmetric": True, "dynamic": False}
SCHEMES: dict[str, tuple[str, dict[str, object]]] = {
    "int8": (
        "int-quantized",
        {
            "weights": {**WEIGHTS, "num_bits": 8, "strategy": "channel"},
            "input_activations": {**WEIGHTS, "num_bits": 8, "strategy": "token", "dynamic": True},
        },
    ),
    "int4": (
        "pack-quantized",
        {"weights": {**WEIGHTS, "num_bits": 4, "strategy": "group", "group_size": GROUP}},
    ),
}


def quantize_int8(weight: torch.Tensor) -> dict[str, torch.Tensor]:
    """weight [out, in] -> int8 [out, in] and one scale a row."""
    scale = weight.abs().amax(1, keepdim=True) / 127
    return {"weight": (weight / scale).round().to(torch.int8), "weight_scale": scale.to(torch.bfloat16)}


def quantize_int4(weight: torch.Tensor) -> dict[str, torch.Tensor]:
    """weight [out, in] -> int32 [out, in / 8], lowest four bits first, and a scale a group of a row."""
    rows, columns = weight.shape
    groups = weight.view(rows, columns // GROUP, GROUP)
    scale = groups.abs().amax(2, keepdim=True) / 7
    codes = (groups / scale).round().clamp(-8, 7).to(torch.int32).view(rows, columns // 8, 8) + 8
    packed = torch.zeros(rows, columns // 8, dtype=torch.int32)
    for place in range(8):
        packed |= codes[:, :, place] << (4 * place)
    shape = torch.tensor([rows, columns])
    return {"weight_packed": packed, "weight_scale": scale[:, :, 0].to(torch.bfloat16), "weight_shape": shape}


def main() -> None:
    folder, kind, target = Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3])
    source = hf_folder.make(folder)
    target.mkdir()
    quantize = {"int8": quantize_int8, "int4": quantize_int4}[kind]
    tensors = {}
    with safe_open(source / "model.safetensors", "pt") as checkpoint:
        for name in checkpoint.keys():  # noqa: SIM118 not a dict
            value = checkpoint.get_tensor(name)
            if name.endswith("_proj.weight"):
                parts = quantize(value.float())
                tensors.update({name.removesuffix("weight") + part: x for part, x in parts.items()})
            else:
                tensors[name] = value
    save_file(tensors, target / "model.safetensors", {"format": "pt"})
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        shutil.copy(source / name, target / name)
    form, scheme = SCHEMES[kind]
    group = {"targets": ["Linear"], **scheme}
    config = json.loads((source / "config.json").read_text())
    config["quantization_config"] = {
        "quant_method": "compressed-tensors",
        "quantization_status": "compressed",
        "format": form,
        "ignore": ["lm_head"],
        "config_groups": {"group_0": group},
    }
    (target / "config.json").write_text(json.dumps(config))


if __name__ == "__main__":
    main()
