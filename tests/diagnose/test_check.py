"""Applying remedies and comparing; what an interrupt leaves."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.diagnose.synthetic import ScriptedRunner, machine, question, subject, workload
from tests.models.tiny import save_tiny

pytest.importorskip("narrows._core", reason="the native core is not built")

from narrows.diagnose import check, run
from narrows.diagnose.observe import observed
from narrows.diagnose.remedies import remedies
from narrows.diagnose.setup import Setup
from narrows.diagnose.subject import open_subject
from narrows.diagnose.trace import Timed, Tracer
from narrows.report import Check


def quiet(text: str) -> None:
    """Nobody looks."""


def test_both_sides_are_timed_by_turns_and_the_least_counts(tmp_path: Path) -> None:
    setup: Setup = question(subject(tmp_path), workload(64, 16, 2)).setup(2)
    ours, theirs = ScriptedRunner(token_s=2e-3), ScriptedRunner(token_s=1e-3)
    ours.slow_steps = theirs.slow_steps = 1
    sides = Tracer(ours, ours.clock), Tracer(theirs, theirs.clock)
    turns = check.by_turns(sides[0], setup, sides[1], setup, "decode", rounds=3, budget_s=0.0)
    assert turns.now.seconds == pytest.approx(2 * 2e-3 + 2e-3)
    assert turns.then.seconds == pytest.approx(2 * 1e-3 + 2e-3)


def test_rounds_with_others_on_the_cores_are_run_again_and_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    setup: Setup = question(subject(tmp_path), workload(64, 16, 2)).setup(2)
    sides = [(5.0, 0.4), (5.0, 0.9), (3.0, 0.95), (2.0, 0.95), (1.0, 0.3), (1.0, 0.9), (3.5, 0.9), (2.5, 0.9)]
    taken = iter([(Timed(seconds, 1, {}), quiet) for seconds, quiet in sides])
    monkeypatch.setattr(check, "_turn", lambda *_: next(taken))
    runner = ScriptedRunner()
    tracer = Tracer(runner, runner.clock)
    turns = check.by_turns(tracer, setup, tracer, setup, "decode", rounds=2)
    assert (turns.now.seconds, turns.then.seconds, turns.quiet) == (3.0, 2.0, 0.9)


def test_what_can_be_applied_here_is_applied_and_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a tiny model: every kind of remedy is run, and none of them is only listed."""
    monkeypatch.setattr(check, "TURN_S", 0.0)
    save_tiny("llama_tied", tmp_path)
    model = open_subject(str(tmp_path))
    asked = replace(question(model, workload(60, 20, 2), machine(), threads=2), spare_streams=8)
    said: list[str] = []
    with observed(asked, said.append) as seen:
        assert seen.started is not None
        found = list(check.checks(asked, seen, said.append, rounds=1, budget_s=0.0))
        listed = remedies(seen.findings, {}, seen.drafting)
    names = {one.remedy for one in found}
    assert {
        "weights q8",
        "weights q4",
        "weights q4-fast",
        "threads 1",
        "batch 4",
        "batch 8",
        "chunk 32",
    } <= names
    assert all(one.measured > 0 and one.predicted > 0 for one in found)
    assert {one.what for one in found} == {"prefill", "decode", "mixed"}
    kinds = {one.kind.replace(":", " ") for one in listed}
    assert {name for name in names if not name.startswith("speculation")} <= kinds
    assert "timing decode" in said
    assert "checking threads 1" in said


def test_guesses_are_checked_through_the_engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check, "SPOKEN", 24)
    model = open_subject(None)
    asked = question(model, workload(40, 20), machine(), threads=1)
    with observed(asked, quiet) as seen:
        assert seen.drafting is not None
        assert seen.started is not None
        assert seen.findings.predictor.present.host_s > 0
        assert seen.findings.predictor.present.request_s > 0
        (found,) = check._speculation(seen, seen.started, 1)
    assert (found.remedy, found.unit) == ("speculation", "tokens/s")
    assert found.measured > 0


def test_an_interrupt_keeps_what_was_measured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    kept = Check("threads 1", "decode", 1.0, 1.0, "s")

    def interrupted(*_: object, skipped: Callable[[str], None]) -> Iterator[Check]:
        yield kept
        skipped("weights q8")
        raise KeyboardInterrupt

    monkeypatch.setattr(check, "checks", interrupted)
    asked = question(subject(tmp_path))
    found, notes = run._checks(asked, None, quiet)  # type: ignore[arg-type]
    assert found == (kept,)
    assert "interrupted" in notes[0]
    assert "weights q8" in notes[1]


def test_a_folder_without_a_tokenizer_is_diagnosed_and_says_so(tmp_path: Path) -> None:
    from narrows.diagnose.assemble import report

    save_tiny("gpt2", tmp_path)
    asked = question(open_subject(str(tmp_path)), workload(30, 9), machine(), threads=1)
    with observed(asked, quiet) as seen:
        made = report(seen, {})
    assert any("no tokenizer" in note for note in made.notes)
    assert made.machine.source == "measured"
    assert seen.drafting is None


def test_what_does_not_fit_is_said_to_be_unchecked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check, "TURN_S", 0.0)
    save_tiny("llama_tied", tmp_path)
    asked = question(open_subject(str(tmp_path)), workload(30, 9, 2), machine(), threads=1)
    skipped: list[str] = []
    with observed(asked, quiet) as seen:
        found = list(check.checks(asked, seen, quiet, rounds=1, budget_s=0.0, skipped=skipped.append))
    assert "batch 8" in skipped  # pages for two streams were taken
    assert "weights q8" in {one.remedy for one in found}
