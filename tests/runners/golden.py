"""The embedded model's greedy tokens on the instruction set of this process, as JSON.

NARROWS_ISA=avx2 python -m tests.runners.golden       prints those of one instruction set
python -m tests.runners.golden --write                remakes golden_tokens.json: after a change that is
                                                      meant to change results, or a new embedded model
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from narrows import _core
from narrows.models.resolve import resolve_model
from narrows.models.tokenizer import Tokenizer
from narrows.runners.cpu import CpuRunner
from narrows.runners.options import CpuOptions
from tests.runners.generate import greedy

FILE = Path(__file__).with_name("golden_tokens.json")
START = "Once upon a time, there was a little fox"
NUM_TOKENS = 64
RECIPES = {
    "bf16": CpuOptions(weights="bf16", cache=False, num_blocks=8, threads=2),
    "q8": CpuOptions(weights="q8", cache=False, num_blocks=8, threads=2),
    "q4": CpuOptions(weights="q4", cache=False, num_blocks=8, threads=2),
    "q4 fast": CpuOptions(weights="q4", group=128, head="q4", cache=False, num_blocks=8, threads=2),
}


def tokens_here() -> dict[str, list[int]]:
    """By recipe, in this process."""
    folder = resolve_model(None, offline=True)
    ids = Tokenizer.from_folder(folder).encode(START)
    return {
        name: greedy(CpuRunner.from_folder(folder, options), ids, NUM_TOKENS)
        for name, options in RECIPES.items()
    }


def tokens_on(isa: str) -> dict[str, list[int]]:
    """The same in a process of its own: an instruction set is chosen once."""
    environment = os.environ | {"NARROWS_ISA": isa}
    command = [sys.executable, "-m", "tests.runners.golden"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=300)
    found: dict[str, list[int]] = json.loads(done.stdout)
    return found


if __name__ == "__main__":
    if sys.argv[1:] == ["--write"]:
        golden = {isa: tokens_on(isa) for isa in _core.available_isas()}
        lines = [f'  "{isa}": {{\n' for isa in golden]
        parts = [
            line + ",\n".join(f"    {json.dumps(name)}: {json.dumps(ids)}" for name, ids in of.items())
            for line, of in zip(lines, golden.values(), strict=True)
        ]
        FILE.write_text("{\n" + "\n  },\n".join(parts) + "\n  }\n}\n")
    else:
        print(json.dumps(tokens_here()))
