"""What the model is asked for: how long prompts and answers are, how many run at once, how often one comes.

In: a preset's name or a file of requests. Out: Workload. Files are JSONL with prompt_tokens and output_tokens
or with a prompt's text, Mooncake traces (input_length, output_length, timestamp in ms) or Azure's CSV
(TIMESTAMP, ContextTokens, GeneratedTokens). A bad line is named.
"""

from __future__ import annotations

import csv
import json
import math
import statistics
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from narrows.errors import InvalidConfig
from narrows.report import WorkloadSummary

MAX_TOKENS: Final = 1 << 27
DEFAULT_STREAMS: Final = 4
DEFAULT_OUTPUT: Final = 128  # of lines that give only a prompt
AZURE_COLUMNS: Final = ("TIMESTAMP", "ContextTokens", "GeneratedTokens")
CountTokens = Callable[[str], int]


@dataclass(frozen=True, slots=True)
class Asked:
    """One request. `at_s`: when it came, from the first one on; None where the file does not say."""

    prompt_tokens: int
    output_tokens: int
    at_s: float | None = None


@dataclass(frozen=True, slots=True)
class Workload:
    """Requests, or a preset's medians as a single one; `scaled` of fit_context."""

    name: str
    requests: tuple[Asked, ...]
    streams: int
    requests_per_s: float | None = None
    is_preset: bool = False
    scaled: float = 1.0

    @property
    def prompt_tokens(self) -> int:
        return round(statistics.median(one.prompt_tokens for one in self.requests))

    @property
    def output_tokens(self) -> int:
        return max(1, round(statistics.median(one.output_tokens for one in self.requests)))

    def summary(self) -> WorkloadSummary:
        return WorkloadSummary(
            self.name,
            self.prompt_tokens,
            self.output_tokens,
            self.streams,
            self.requests_per_s,
            0 if self.is_preset else len(self.requests),
            self.scaled,
        )


# Round numbers near the medians of published traces: conversations of about 1,000 tokens in and 130 out and
# code completions of 1,500 in and 10 to 30 out (Azure, 2023), rag prompts of several thousand.
PRESETS: Final[dict[str, Workload]] = {
    "chat": Workload("chat", (Asked(512, 256),), 1, is_preset=True),
    "code": Workload("code", (Asked(1536, 32),), 1, is_preset=True),
    "rag": Workload("rag", (Asked(4096, 256),), 4, is_preset=True),
    "classify": Workload("classify", (Asked(256, 1),), 8, is_preset=True),
}


def read_workload(
    name: str,
    *,
    streams: int | None = None,
    requests_per_s: float | None = None,
    count_tokens: CountTokens | None = None,
) -> Workload:
    """A preset or a file; `streams` and `requests_per_s` say otherwise than it does.

    `count_tokens`: of a prompt's text; without it (no tokenizer) such lines are refused.
    """
    if streams is not None and not 1 <= streams <= 4096:
        raise InvalidConfig(f"--concurrency is {streams}; it must be from 1 to 4096")
    if requests_per_s is not None and not 0 < requests_per_s < 1e6:
        raise InvalidConfig(f"--rate is {requests_per_s}; it must be above 0, in requests per second")
    found = PRESETS.get(name) or _read_file(Path(name), count_tokens)
    return replace(
        found,
        streams=streams or found.streams,
        requests_per_s=found.requests_per_s if requests_per_s is None else requests_per_s,
    )


def fit_context(workload: Workload, max_context: int) -> Workload:
    """Scales all lengths alike where the longest request would not fit; the summary says by how much."""
    longest = max(one.prompt_tokens + one.output_tokens for one in workload.requests)
    if longest <= max_context:
        return workload
    if max_context < 2:
        raise InvalidConfig(f"a context of {max_context} holds no prompt and answer")
    factor = max_context / longest

    def scale(one: Asked) -> Asked:
        prompt = max(1, math.floor(one.prompt_tokens * factor))
        return replace(
            one,
            prompt_tokens=min(prompt, max_context - 1),
            output_tokens=max(1, math.floor(one.output_tokens * factor)),
        )

    return replace(workload, requests=tuple(map(scale, workload.requests)), scaled=factor)


def _read_file(path: Path, count_tokens: CountTokens | None) -> Workload:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        reason = "is not UTF-8 text" if isinstance(error, ValueError) else getattr(error, "strerror", error)
        raise InvalidConfig(
            f"--workload {path}: {reason}; give one of {', '.join(PRESETS)} or a JSONL or CSV file"
        ) from error
    lines = text.splitlines()
    is_csv = bool(lines) and lines[0].split(",")[0].strip() == AZURE_COLUMNS[0]
    requests = tuple(_azure_lines(path, lines) if is_csv else _json_lines(path, lines, count_tokens))
    if not requests:
        raise InvalidConfig(f"{path} holds no request")
    return Workload(path.name, requests, DEFAULT_STREAMS, _rate(requests))


def _rate(requests: tuple[Asked, ...]) -> float | None:
    """Requests per second over the whole file; None where times are missing or all the same."""
    times = [one.at_s for one in requests if one.at_s is not None]
    if len(times) < 2 or len(times) != len(requests):
        return None
    span = max(times) - min(times)
    return (len(times) - 1) / span if span > 0 else None


def _json_lines(path: Path, lines: list[str], count_tokens: CountTokens | None) -> Iterator[Asked]:
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        try:
            values = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise InvalidConfig(f"{where}: not JSON ({error})") from error
        if not isinstance(values, dict):
            raise InvalidConfig(f"{where}: a {type(values).__name__} where an object belongs")
        yield _json_request(values, where, count_tokens)


def _json_request(values: Mapping[str, Any], where: str, count_tokens: CountTokens | None) -> Asked:
    if "input_length" in values:
        at_s = None if "timestamp" not in values else _number(values, "timestamp", where) / 1e3
        return Asked(_tokens(values, "input_length", where), _tokens(values, "output_length", where), at_s)
    at_s = None if "at_s" not in values else _number(values, "at_s", where)
    output = _tokens(values, "output_tokens", where, DEFAULT_OUTPUT)
    if "prompt_tokens" in values:
        return Asked(_tokens(values, "prompt_tokens", where), output, at_s)
    text = values.get("prompt")
    if not isinstance(text, str) or not text:
        raise InvalidConfig(
            f"{where}: neither prompt_tokens nor a prompt's text nor input_length; one of them is needed"
        )
    if count_tokens is None:
        raise InvalidConfig(
            f"{where}: a prompt's text, but no tokenizer is there to count its tokens; give prompt_tokens"
        )
    return Asked(max(1, count_tokens(text)), output, at_s)


def _azure_lines(path: Path, lines: list[str]) -> Iterator[Asked]:
    reader = csv.DictReader(lines)
    missing = [name for name in AZURE_COLUMNS if name not in (reader.fieldnames or ())]
    if missing:
        raise InvalidConfig(f"{path}, line 1: column {', '.join(missing)} is missing")
    began: datetime | None = None
    for number, values in enumerate(reader, start=2):
        where = f"{path}, line {number}"
        text = values["TIMESTAMP"] or ""
        try:
            at = datetime.fromisoformat(text[:26])  # a seventh digit of the second is more than it takes
        except ValueError as error:
            raise InvalidConfig(f"{where}: TIMESTAMP is {text!r}, which is no time") from error
        began = began or at
        whole = {name: _whole(values[name]) for name in AZURE_COLUMNS[1:]}
        yield Asked(
            _tokens(whole, "ContextTokens", where),
            _tokens(whole, "GeneratedTokens", where),
            (at - began).total_seconds(),
        )


def _whole(text: str | None) -> int | str | None:
    return int(text) if text is not None and text.isascii() and text.isdigit() else text


def _tokens(values: Mapping[str, Any], name: str, where: str, default: int | None = None) -> int:
    value = values.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= MAX_TOKENS:
        raise InvalidConfig(f"{where}: {name} is {value!r}; it must be a whole number from 1 to {MAX_TOKENS}")
    return value


def _number(values: Mapping[str, Any], name: str, where: str) -> float:
    value = values[name]
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1e15:
        raise InvalidConfig(f"{where}: {name} is {value!r}; it must be a number of at least 0")
    return float(value)
