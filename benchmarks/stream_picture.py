"""Draws docs/stream.svg: a recorded token stream as an animated terminal, slowed down so that eyes
can follow.

In: the URL of a running server. Every token appears at its recorded arrival time, times SLOWDOWN;
the last lines give the unslowed figures.
"""

from __future__ import annotations

import argparse
import html
import json
import textwrap
import time
from pathlib import Path

import httpx

SLOWDOWN = 20
COLUMNS = 78
CHAR_WIDTH, LINE_HEIGHT, MARGIN = 8.43, 20, 16
PROMPT = "Tell me a story about a little dog and a red ball."


def record(url: str, max_tokens: int) -> tuple[list[tuple[float, str]], dict[str, float]]:
    """(seconds after sending, text) of each chunk, and the timing the server reported."""
    body = {
        "model": "default",
        "messages": [{"role": "user", "content": PROMPT}],
        "stream": True,
        "seed": 3,
        "temperature": 0.5,
        "max_tokens": max_tokens,
        "stream_options": {"include_usage": True},
    }
    models = httpx.get(f"{url}/v1/models").json()
    body["model"] = models["data"][0]["id"]
    pieces: list[tuple[float, str]] = []
    timing: dict[str, float] = {}
    begin = time.perf_counter()
    with httpx.stream("POST", f"{url}/v1/chat/completions", json=body, timeout=60) as response:
        response.raise_for_status()
        for line in response.iter_lines():
            if not line.startswith("data: ") or line == "data: [DONE]":
                continue
            event = json.loads(line[6:])
            for choice in event["choices"]:
                if choice["delta"].get("content"):
                    pieces.append((time.perf_counter() - begin, choice["delta"]["content"]))
            if event.get("usage"):
                timing = {**event["usage"].get("timing", {}), "tokens": event["usage"]["completion_tokens"]}
    return pieces, timing


def layout(pieces: list[tuple[float, str]]) -> list[tuple[int, int, float, str]]:
    """(line, column, seconds, text) of each visible run, wrapped at words."""
    text = "".join(piece for _, piece in pieces)
    starts: list[float] = []
    for seconds, piece in pieces:
        starts.extend([seconds] * len(piece))
    runs, position, line = [], 0, 0
    for paragraph in text.split("\n"):
        for row in textwrap.wrap(paragraph, COLUMNS) or [""]:
            position = text.index(row, position) if row else position
            column = 0
            while column < len(row):
                seconds = starts[position + column]
                end = column
                while end < len(row) and starts[position + end] == seconds:
                    end += 1
                runs.append((line, column, seconds, row[column:end]))
                column = end
            position += len(row)
            line += 1
    return runs


def draw(pieces: list[tuple[float, str]], timing: dict[str, float]) -> str:
    """The SVG: two header lines, the story, two lines of figures."""
    runs = layout(pieces)
    lines = max(line for line, *_ in runs) + 6
    width, height = COLUMNS * CHAR_WIDTH + 2 * MARGIN, lines * LINE_HEIGHT + 2 * MARGIN
    spoken = max(seconds for _, _, seconds, _ in runs) * SLOWDOWN
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height}" width="{width:.0f}" '
        f'height="{height}" font-family="ui-monospace,Menlo,Consolas,monospace" font-size="14">',
        "<title>A recorded stream of the embedded model</title>",
        "<style>rect{fill:#11161d}text{fill:#d7dee8;white-space:pre}.p{fill:#7fd1b9}.n{fill:#f2c572}"
        ".t{opacity:0;animation:a .01s forwards}@keyframes a{to{opacity:1}}"
        "@media (prefers-reduced-motion:reduce){.t{animation:none;opacity:1}}</style>",
        '<rect width="100%" height="100%" rx="8"/>',
    ]

    def put(line: float, column: int, text: str, kind: str = "", delay: float | None = None) -> None:
        style = f' style="animation-delay:{delay:.2f}s"' if delay is not None else ""
        names = f"{kind} t".strip() if delay is not None else kind
        x, y = MARGIN + column * CHAR_WIDTH, MARGIN + (line + 1) * LINE_HEIGHT - 5
        out.append(f'<text class="{names}" x="{x:.1f}" y="{y:.1f}"{style}>{html.escape(text)}</text>')

    put(0, 0, "$ narrows chat", "p")
    put(1, 0, f"> {PROMPT}", "p")
    for line, column, seconds, text in runs:
        put(line + 2.5, column, text, "", seconds * SLOWDOWN)
    rate = 1000 / timing["tpot_ms"]
    figures = f"TTFT {timing['ttft_ms']:.1f} ms   TPOT {timing['tpot_ms']:.2f} ms   {rate:.0f} tokens/s"
    put(lines - 2, 0, figures, "n", spoken)
    put(lines - 1, 0, f"shown {SLOWDOWN} times slower than it streamed", "n", spoken)
    out.append("</svg>")
    return "\n".join(out) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--max-tokens", type=int, default=150)
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "docs/stream.svg")
    arguments = parser.parse_args()
    record(arguments.url, 8)  # warm-up
    pieces, timing = record(arguments.url, arguments.max_tokens)
    arguments.out.write_text(draw(pieces, timing))
    print(f"{arguments.out}: {timing}")


if __name__ == "__main__":
    main()
