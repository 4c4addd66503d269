"""Recorded arrivals and lengths, fitted to a server's context and to the time one has.

In: the files that Microsoft Azure (CSV, 2023 and 2024: time stamp, context tokens, generated tokens) and
Mooncake (JSONL: milliseconds, lengths, hashes of 512-token blocks) publish. Out: TraceRows. Texts are not in
them.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Literal, TextIO

from narrows.errors import InvalidConfig

Fit = Literal["scale", "clip", "drop"]
FITS: tuple[Fit, ...] = ("scale", "clip", "drop")
MOONCAKE_BLOCK_TOKENS = 512
AZURE_COLUMNS = ("TIMESTAMP", "ContextTokens", "GeneratedTokens")


@dataclass(frozen=True, slots=True)
class TraceRow:
    """One request of a trace. `block_ids`: equal ones mean equal text, `block_tokens` tokens each; prefixes
    only.
    """

    at_s: float
    num_prompt: int
    num_output: int
    block_ids: tuple[int, ...] = ()
    block_tokens: int = MOONCAKE_BLOCK_TOKENS


def read_trace(path: Path, *, limit: int | None = None) -> list[TraceRow]:
    """The first `limit` requests, by time, the first at 0 s. Raises InvalidConfig, naming file and line."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = _collect(_mooncake(file, path) if _is_json(path) else _azure(file, path), limit)
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidConfig(f"the trace {path} cannot be read: {error}") from None
    if not rows:
        raise InvalidConfig(f"the trace {path} has no requests")
    rows.sort(key=lambda row: row.at_s)
    return [replace(row, at_s=row.at_s - rows[0].at_s) for row in rows]


def fit_lengths(rows: Sequence[TraceRow], max_tokens: int, how: Fit) -> tuple[list[TraceRow], float]:
    """Rows whose prompt and answer fit into `max_tokens` together, and the factor lengths were multiplied
    with.

    scale: one factor for all, so that the longest fits (never above 1): the proportions stay. clip: prompts
    are shortened, then answers. drop: longer ones are left out. Raises InvalidConfig where nothing is left.
    """
    longest = max(row.num_prompt + row.num_output for row in rows)
    if longest <= max_tokens:
        return list(rows), 1.0
    if how == "drop":
        kept = [row for row in rows if row.num_prompt + row.num_output <= max_tokens]
        if not kept:
            raise InvalidConfig(
                f"no request of the trace fits into {max_tokens} tokens; use --trace-fit scale"
            )
        return kept, 1.0
    if how == "clip":
        return [_clip(row, max_tokens) for row in rows], 1.0
    factor = max_tokens / longest
    # Rounding must not push the longest one over the edge.
    return [_clip(_scale(row, factor), max_tokens) for row in rows], factor


def fit_times(
    rows: Sequence[TraceRow], *, speed: float, rate_per_s: float | None, duration_s: float | None
) -> list[TraceRow]:
    """Rows played `speed` times as fast, or so that their mean rate is `rate_per_s`, as far as
    `duration_s`.
    """
    if rate_per_s is not None:
        span_s = rows[-1].at_s
        speed = rate_per_s * span_s / (len(rows) - 1) if len(rows) > 1 and span_s > 0 else 1.0
    played = [replace(row, at_s=row.at_s / speed) for row in rows]
    return played if duration_s is None else [row for row in played if row.at_s < duration_s]


def _scale(row: TraceRow, factor: float) -> TraceRow:
    return replace(
        row,
        num_prompt=max(1, round(row.num_prompt * factor)),
        num_output=max(1, round(row.num_output * factor)),
        block_tokens=max(1, round(row.block_tokens * factor)),
    )


def _clip(row: TraceRow, max_tokens: int) -> TraceRow:
    num_output = min(row.num_output, max_tokens - 1)
    return replace(row, num_prompt=min(row.num_prompt, max_tokens - num_output), num_output=num_output)


def _collect(rows: Iterator[TraceRow], limit: int | None) -> list[TraceRow]:
    found = []
    for row in rows:
        found.append(row)
        if limit is not None and len(found) >= limit:
            break
    return found


def _is_json(path: Path) -> bool:
    return path.suffix in (".jsonl", ".json", ".ndjson")


def _azure(file: TextIO, path: Path) -> Iterator[TraceRow]:
    reader = csv.DictReader(file)
    missing = [name for name in AZURE_COLUMNS if name not in (reader.fieldnames or [])]
    if missing:
        raise InvalidConfig(
            f"{path}:1: no column {', '.join(missing)}; an Azure trace has {', '.join(AZURE_COLUMNS)}"
        )
    for cells in reader:
        try:
            # Seven digits after the point; datetime keeps six.
            at_s = datetime.fromisoformat(cells["TIMESTAMP"]).timestamp()
            yield _checked(at_s, int(cells["ContextTokens"]), int(cells["GeneratedTokens"]))
        except (ValueError, TypeError) as error:
            raise _bad_line(path, reader.line_num, error) from None


def _mooncake(file: TextIO, path: Path) -> Iterator[TraceRow]:
    for number, line in enumerate(file, start=1):
        if not line.strip():
            continue
        try:
            body = json.loads(line)
            row = _checked(body["timestamp"] / 1e3, int(body["input_length"]), int(body["output_length"]))
            yield replace(row, block_ids=tuple(int(block) for block in body.get("hash_ids", ())))
        except KeyError as error:
            raise _bad_line(path, number, f"no field {error}") from None
        except (ValueError, TypeError, AttributeError) as error:
            raise _bad_line(path, number, error) from None


def _checked(at_s: float, num_prompt: int, num_output: int) -> TraceRow:
    """Traces hold requests that gave no token; they are sent for one."""
    if num_prompt < 0 or num_output < 0:
        raise ValueError("a length is negative")
    return TraceRow(float(at_s), max(1, num_prompt), max(1, num_output))


def _bad_line(path: Path, number: int, why: object) -> InvalidConfig:
    return InvalidConfig(f"{path}:{number}: this line is no request of a trace: {why}")
