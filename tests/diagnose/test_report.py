"""The Report as JSON, and the golden one of a synthetic machine."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from narrows.diagnose.assemble import report
from narrows.diagnose.text import check_lines, lines, percentile
from narrows.errors import InvalidConfig
from narrows.report import Check, Report
from tests.diagnose.synthetic import machine, seen, subject, workload

GOLDEN = Path(__file__).parent / "golden_report.json"
WHEN = datetime(2026, 1, 1, tzinfo=UTC)


def made(folder: Path) -> Report:
    folder = folder / "golden"
    folder.mkdir()
    model = replace(subject(folder), given="the-model")
    found = seen(model, workload(512, 128, 2, 0.05), machine(), target="throughput")
    return report(found, {"prefill-chunk": "128"}, now=WHEN)


def close(found: Any, wanted: Any, where: str = "report") -> None:
    """Equal, numbers to a millionth: libraries may round powers differently in the last digit."""
    if isinstance(wanted, dict):
        assert set(found) == set(wanted), where
        for key, value in wanted.items():
            close(found[key], value, f"{where}.{key}")
    elif isinstance(wanted, list):
        assert len(found) == len(wanted), where
        for i, value in enumerate(wanted):
            close(found[i], value, f"{where}[{i}]")
    elif isinstance(wanted, float):
        assert found == pytest.approx(wanted, rel=1e-6), where
    else:
        assert found == wanted, where


def test_the_report_of_a_synthetic_machine_is_the_golden_one(tmp_path: Path) -> None:
    """To make it anew after a change that was meant: python -m tests.diagnose.test_report"""
    close(json.loads(json.dumps(made(tmp_path).to_json())), json.loads(GOLDEN.read_text()))


def test_a_report_goes_through_json_unchanged(tmp_path: Path) -> None:
    whole = replace(made(tmp_path), checks=(Check("threads 1", "decode", 1.1, 1.0, "s"),))
    again = Report.from_json(json.loads(json.dumps(whole.to_json())))
    assert again == whole
    assert again.checks[0].error == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"version": 99}, "version 99"),
        ({"now": {}}, "report.now lacks"),
        ({"now": 3}, "report.now must be an object"),
        ({"target": "luck"}, "report.target is 'luck'"),
        ({"phases": {}}, "report.phases must be a list"),
        ({"verdicts": [{"kind": 3}]}, r"report.verdicts\[0\] lacks"),
        ({"made_at": 3}, "report.made_at is 3"),
        ({"more": 1}, "report has fields that no report has: more"),
    ],
)
def test_a_damaged_report_is_refused_by_field(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    values = {**made(tmp_path).to_json(), **change}
    with pytest.raises(InvalidConfig, match=said):
        Report.from_json(json.loads(json.dumps(values)))


def test_the_terminal_shows_every_part(tmp_path: Path) -> None:
    whole = made(tmp_path)
    text = "\n".join(lines(replace(whole, checks=(Check("threads 1", "decode", 1.1e-3, 1e-3, "s"),))))
    for wanted in (
        "M weights in 16 layers",
        "not known: the weights",
        "first token after",
        "decode, a token of each of 2 streams",
        "Why",
        "What would help, by throughput",
        "quality: KL",
        "narrows serve",
        "--prefill-chunk 128",
        "predicted    1.1 ms, measured      1 ms  +10.0%",
        "Notes",
    ):
        assert wanted in text, wanted
    assert max(len(line) for line in text.splitlines()) < 112 + len(str(tmp_path))


def test_errors_are_summed_up_by_their_sizes() -> None:
    checks = [Check("x", "decode", 1 + i / 100, 1.0, "s") for i in range(-5, 6)]
    assert (
        "11 undisturbed checks: median error 3.0%, 90th percentile 5.0%, worst 5.0%"
        in check_lines(checks)[-1]
    )
    busy = Check("threads 1", "decode", 9.0, 1.0, "s", quiet=0.4)
    assert "only 40% of the CPU time" in check_lines([*checks, busy])[-2]
    assert "11 undisturbed" in check_lines([*checks, busy])[-1]
    assert percentile([1, 2, 3, 4, 5, 6, 7, 8, 9, 10], 0.9) == 9
    assert percentile([4.0], 0.9) == 4.0
    assert check_lines([]) == ["Predicted, then measured"]


if __name__ == "__main__":
    import tempfile

    with tempfile.TemporaryDirectory() as name:
        GOLDEN.write_text(json.dumps(made(Path(name)).to_json(), indent=1) + "\n")
