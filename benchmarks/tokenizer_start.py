"""How long a tokenizer takes to open and to encode: the library's, and the compiled one.

For a folder with a byte-level tokenizer.json: seconds of the first start (parse, compile, compare, write),
of the library alone and of the compiled file, then microseconds a text of 200, 2,000 and 40,000 characters.
Checks that both give the same ids; appends a JSON line.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from narrows.models.compiled_encoder import CompiledEncoder, open_encoder
from narrows.models.encoder import Encoder, read_library

CHARACTERS = (200, 2_000, 40_000)
ROOT = Path(__file__).parents[1]


def seconds(call: Callable[[], object]) -> float:
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin


def encode_us(encoder: Encoder, text: str, runs: int) -> float:
    """Median microseconds, words warm in the library's cache."""
    encoder.encode(text, add_special=True)
    return (
        statistics.median(seconds(lambda: encoder.encode(text, add_special=True)) for _ in range(runs)) * 1e6
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="holds a byte-level tokenizer.json of more than 1 MB")
    parser.add_argument("--text", type=Path, default=ROOT / "docs" / "architecture.md")
    parser.add_argument("--runs", type=int, default=15)
    arguments = parser.parse_args()
    folder: Path = arguments.folder
    with tempfile.TemporaryDirectory() as cache:
        os.environ["NARROWS_CACHE_DIR"] = cache
        first_s = seconds(lambda: open_encoder(folder))
        library_s = statistics.median(seconds(lambda: read_library(folder)) for _ in range(5))
        compiled_s = statistics.median(seconds(lambda: open_encoder(folder)) for _ in range(arguments.runs))
        library, compiled = read_library(folder), open_encoder(folder)
    if not isinstance(compiled, CompiledEncoder):
        raise SystemExit(f"{folder / 'tokenizer.json'} is not compiled: too small, or of another kind")
    row: dict[str, object] = {
        "question": "tokenizer_start",
        "first_s": round(first_s, 3),
        "library_s": round(library_s, 3),
        "compiled_s": round(compiled_s, 4),
    }
    print(f"first start {first_s:.2f} s, library {library_s:.3f} s, compiled {compiled_s * 1e3:.1f} ms")
    text = arguments.text.read_text(encoding="utf-8")
    for size in CHARACTERS:
        part = (text * (1 + size // len(text)))[:size]
        assert compiled.encode(part, add_special=True) == library.encode(part, add_special=True)
        both = [round(encode_us(encoder, part, arguments.runs)) for encoder in (library, compiled)]
        row[f"library_us_{size}"], row[f"compiled_us_{size}"] = both
        print(f"{size:6} characters: library {both[0]} us, compiled {both[1]} us")
    target = Path(__file__).parent / "results" / "tokenizer_start.jsonl"
    target.parent.mkdir(exist_ok=True)
    with target.open("a") as out:
        out.write(json.dumps({"time": int(time.time()), "tokenizer": folder.name, **row}) + "\n")
    print(json.dumps(row))


if __name__ == "__main__":
    main()
