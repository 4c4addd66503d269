"""The result of a bench as one JSON document, written and read.

In: what was asked, the phases and their figures. Out: plain dictionaries. `schema` names the layout: a reader
refuses what it does not know. Durations in seconds, token times of records in microseconds.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from narrows.bench import record as records
from narrows.bench.load import Phase
from narrows.bench.metrics import Summary
from narrows.bench.saturation import Saturation
from narrows.bench.server_figures import Check
from narrows.errors import InvalidConfig

SCHEMA = "narrows-bench/1"


@dataclass(frozen=True, slots=True)
class Measured:
    """One phase with everything that was made of it."""

    phase: Phase
    summary: Summary
    saturation: Saturation
    checks: tuple[Check, ...]


@dataclass(frozen=True, slots=True)
class Result:
    """A whole bench. `about`: target, workload and load as they were asked for; `notes`: what a reader must
    know.
    """

    about: Mapping[str, Any]
    measured: Sequence[Measured]
    notes: Sequence[str] = ()
    was_stopped: bool = False


def to_json(result: Result, *, with_records: bool = True) -> dict[str, Any]:
    return {
        "schema": SCHEMA,
        **result.about,
        "notes": list(result.notes),
        "was_stopped": result.was_stopped,
        "phases": [_phase(one, with_records) for one in result.measured],
    }


def _phase(one: Measured, with_records: bool) -> dict[str, Any]:
    body: dict[str, Any] = {
        "summary": _rounded(asdict(one.summary)),
        "saturation": _rounded(asdict(one.saturation)),
        "server": [_rounded(asdict(check)) for check in one.checks],
    }
    if with_records:
        body["records"] = [records.to_json(record) for record in one.phase.records]
    return body


def write(path: Path, document: Mapping[str, Any]) -> None:
    """Raises InvalidConfig where it cannot be written: the measurement must not be lost silently."""
    try:
        path.write_text(
            json.dumps(document, ensure_ascii=False, separators=(",", ":")) + "\n", encoding="utf-8"
        )
    except OSError as error:
        raise InvalidConfig(f"the result cannot be written to {path}: {error}") from None


def read(path: Path) -> dict[str, Any]:
    """A document that `write` wrote, with records. Raises InvalidConfig."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InvalidConfig(f"{path} is no result of narrows bench: {error}") from None
    if not isinstance(document, dict) or document.get("schema") != SCHEMA:
        raise InvalidConfig(f"{path} is no result of narrows bench: its schema should be {SCHEMA!r}")
    if not all("records" in phase for phase in document.get("phases", [])):
        raise InvalidConfig(f"{path} holds no records; write it with --output, not --json")
    return document


def phase_records(phase: Mapping[str, Any], where: str) -> list[records.Record]:
    """Raises InvalidConfig."""
    try:
        return [records.from_json(body) for body in phase["records"]]
    except (KeyError, TypeError, ValueError) as error:
        raise InvalidConfig(f"{where} holds a damaged record: {error!r}") from None


def _rounded(value: Any) -> Any:  # noqa: ANN401  (JSON is anything)
    """Nine digits: a nanosecond's worth of an hour, and files that do not end in ...0000001."""
    if isinstance(value, float):
        return float(f"{value:.9g}")
    if isinstance(value, dict):
        return {str(key): _rounded(item) for key, item in value.items()}
    return [_rounded(item) for item in value] if isinstance(value, list | tuple) else value
