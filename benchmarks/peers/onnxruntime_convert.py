"""Turns a folder made by shapes.py into ONNX Runtime GenAI's form with its own model builder.

Runs in ONNX Runtime GenAI's environment. Symmetric; accuracy level 4: activations become int8, its
fast path on a CPU.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import hf_folder

# Against its default, blocks of 32, in the same run (one thread, qwen3-0.6b): decode 1.4, prefill 1.3,
# 8 streams 1.3. Groups of 128 are also what OpenVINO and Narrows have.
BLOCK = 128


def main() -> None:
    folder, kind, target = Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3])
    precision, _, block = kind.partition("b")  # int4, or int4b32: its default of 32
    source = hf_folder.make(folder)
    tool = (sys.executable, "-m", "onnxruntime_genai.models.builder")
    paths = (
        "--input",
        str(source),
        "--output",
        str(target),
        "--cache_dir",
        str(target.with_suffix(".cache")),
    )
    options = ("--extra_options", "accuracy_level=4", f"block_size={block or BLOCK}")
    subprocess.run(
        [*tool, *paths, "--precision", precision, "--execution_provider", "cpu", *options],
        check=True,
    )


if __name__ == "__main__":
    main()
