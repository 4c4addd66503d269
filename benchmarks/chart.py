"""Draws docs/cpu.svg: Narrows and its peers as grouped bars, from the JSON lines of cpu.py.

Takes the newest run of every shape and question. A peer that failed is drawn with its
error. Follows the reader's light or dark theme; needs nothing but Python.
"""

from __future__ import annotations

import argparse
import html
import json
from collections.abc import Sequence
from pathlib import Path

HERE = Path(__file__).parent
OURS = "narrows"
TITLES = {
    "decode": "Decode, 32-token prompt (tokens/s)",
    "decode1024": "Decode, 1024-token prompt (tokens/s)",
    "prefill": "Prefill, 512 tokens (tokens/s)",
    "prefill2048": "Prefill, 2048 tokens (tokens/s)",
    "streams8": "8 streams, 128 in and 64 out each (tokens/s)",
    "streams32": "32 streams, 128 in and 64 out each (tokens/s)",
    "cold": "Cold start to first token (s, lower is better)",
    "convert": "Conversion (s, lower is better)",
    "first": "First start ever, conversion included (s, lower is better)",
    "memory": "Peak memory (MB, lower is better)",
}
LOWER_IS_BETTER = ("cold", "convert", "first", "memory")
DEFAULT_QUESTIONS = ("decode", "prefill", "streams8")
WIDTH, NAME_WIDTH, VALUE_WIDTH, MARGIN = 860, 150, 76, 16
BAR, GAP, HEADING = 16, 6, 30
STYLE = (
    "text{fill:#1f2328;font-size:12px}.s{font-size:16px;font-weight:600}.q{font-weight:600}"
    ".o{fill:#0a7d5a}.p{fill:#9aa4b1}.w{stroke:#57606a;stroke-width:1.5}.e{fill:#656d76;font-style:italic}"
    ".b{font-weight:600}"
    "@media (prefers-color-scheme:dark){text{fill:#e6edf3}.o{fill:#3fb68b}.p{fill:#5b6672}"
    ".w{stroke:#c9d1d9}.e{fill:#9198a1}}"
)
ERROR_CHARS = 88

JsonRow = dict[str, object]


def read_rows(files: Sequence[Path]) -> list[JsonRow]:
    """For every shape and question the rows of the newest run that asked it: runs are not comparable."""
    rows = [json.loads(line) for file in files for line in file.read_text().splitlines() if line.strip()]
    newest: dict[tuple[str, str], float] = {}
    for row in rows:
        key = row["shape"], row["question"]
        newest[key] = max(newest.get(key, 0), row["time"])
    return [row for row in rows if row["time"] == newest[row["shape"], row["question"]]]


def number(row: JsonRow, key: str) -> float | None:
    value = row[key]
    return float(value) if isinstance(value, int | float) else None


def best_first(group: Sequence[JsonRow], question: str) -> list[JsonRow]:
    """Rows with a value from best to worst, then the failed ones by name."""
    sign = 1 if question in LOWER_IS_BETTER else -1

    def key(row: JsonRow) -> tuple[bool, float, str]:
        value = number(row, "value")
        return value is None, 0.0 if value is None else sign * value, str(row["engine"])

    return sorted(group, key=key)


def bar(row: JsonRow, y: float, scale: float) -> list[str]:
    """One engine: its name, a bar with the spread as a whisker and the median, or its error."""
    name = html.escape(str(row["engine"]))
    ours = str(row["engine"]).startswith(OURS)
    middle, baseline = y + BAR / 2, y + BAR / 2 + 4
    weight = ' class="b"' if ours else ""
    left = MARGIN + NAME_WIDTH
    out = [f'<text{weight} x="{left - 8}" y="{baseline:.1f}" text-anchor="end">{name}</text>']
    value, low, high = (number(row, key) for key in ("value", "low", "high"))
    if value is None or low is None or high is None:
        error = html.escape(str(row.get("error", ""))[:ERROR_CHARS])
        return [*out, f'<text class="e" x="{left}" y="{baseline:.1f}">does not run: {error}</text>']
    kind = "o" if ours else "p"
    length = max(value * scale, 1)
    out.append(f'<rect class="{kind}" x="{left}" y="{y:.1f}" width="{length:.1f}" height="{BAR}" rx="2"/>')
    if high > low:
        ends = f'x1="{left + low * scale:.1f}" x2="{left + high * scale:.1f}"'
        out.append(f'<line class="w" {ends} y1="{middle:.1f}" y2="{middle:.1f}"/>')
    shown = f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"
    x = left + max(length, high * scale) + 6
    out.append(f'<text{weight} x="{x:.1f}" y="{baseline:.1f}">{shown}</text>')
    return out


def draw(rows: Sequence[JsonRow], questions: Sequence[str]) -> str:
    """The SVG: a section a shape, in it a group a question, in it a bar an engine."""
    body: list[str] = []
    y = float(MARGIN)
    for shape in dict.fromkeys(str(row["shape"]) for row in rows):
        y += 18
        body.append(f'<text class="s" x="{MARGIN}" y="{y:.1f}">{html.escape(shape)}</text>')
        y += 10
        for question in questions:
            group = [row for row in rows if row["shape"] == shape and row["question"] == question]
            if not group:
                continue
            y += HEADING - 8
            body.append(f'<text class="q" x="{MARGIN}" y="{y:.1f}">{TITLES[question]}</text>')
            y += 8
            largest = max((number(row, "high") or 0.0 for row in group), default=0.0)
            scale = (WIDTH - 2 * MARGIN - NAME_WIDTH - VALUE_WIDTH) / (largest or 1.0)
            for row in best_first(group, question):
                body += bar(row, y, scale)
                y += BAR + GAP
        y += 14
    height = y + MARGIN
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:.0f}" width="{WIDTH}" '
        f'height="{height:.0f}" font-family="system-ui,-apple-system,Segoe UI,Helvetica,Arial,sans-serif">'
    )
    title = "<title>Narrows and its peers on the same CPU: medians, whiskers from lowest to highest</title>"
    return "\n".join([head, title, f"<style>{STYLE}</style>", *body, "</svg>"]) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", nargs="*", type=Path, help="default: results/cpu-*.jsonl")
    parser.add_argument("--shapes", nargs="+", help="default: all")
    parser.add_argument("--questions", nargs="+", choices=list(TITLES), default=DEFAULT_QUESTIONS)
    parser.add_argument("--out", type=Path, default=HERE.parent / "docs/cpu.svg")
    arguments = parser.parse_args()
    rows = read_rows(arguments.files or sorted(HERE.glob("results/cpu-*.jsonl")))
    if arguments.shapes:
        rows = [row for row in rows if row["shape"] in arguments.shapes]
    if not rows:
        raise SystemExit("no rows to draw: run benchmarks/cpu.py first")
    arguments.out.write_text(draw(rows, arguments.questions))
    print(arguments.out)


if __name__ == "__main__":
    main()
