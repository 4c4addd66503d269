"""The verb: what it prints and writes, and what it refuses before anything is run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from narrows import cli
from narrows.diagnose import run
from narrows.diagnose.options import ModelChoice, read_link
from narrows.errors import InvalidConfig
from narrows.machine.profile import Link
from narrows.report import Report
from tests.diagnose.synthetic import LLAMA, machine

pytest.importorskip("narrows._core", reason="the native core is not built")


@pytest.fixture(autouse=True)
def profile(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "load_profile", lambda bar: machine())


@pytest.fixture
def config(tmp_path: Path) -> str:
    (tmp_path / "config.json").write_text(json.dumps(LLAMA))
    return str(tmp_path / "config.json")


def test_a_bare_config_in_all_three_forms(
    config: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "report.html"
    assert cli.main(["diagnose", config, "--workload", "rag", "--json", "--html", str(page)]) == 0
    made = Report.from_json(json.loads(capsys.readouterr().out))
    assert (made.workload.prompt_tokens, made.workload.streams) == (4096, 4)
    assert page.read_text().startswith("<!doctype html>")
    assert cli.main(["diagnose", config, "--target", "memory", "--hosts", "2", "--link", "50us,1.2"]) == 0
    text = capsys.readouterr().out
    assert "What would help, by memory" in text
    assert "by arithmetic; nothing was run" in " ".join(text.split())


def test_the_embedded_model_is_run(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["diagnose", "--workload", "classify", "--concurrency", "2", "--threads", "1", "--json"]
    assert cli.main(words) == 0
    made = Report.from_json(json.loads(capsys.readouterr().out))
    assert made.target == "ttft"
    assert made.machine.source == "measured"
    assert {phase.name for phase in made.phases} == {"prefill", "decode", "mixed"}
    for phase in made.phases:
        assert sum(op.seconds for op in phase.ops) + phase.outside_s == pytest.approx(phase.seconds, rel=1e-6)
    assert all("--threads" in (remedy.command or "--threads") for remedy in made.remedies)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--check", "--config-only"], "leave one of them out"),
        (["--check"], "no weights to run"),
        (["--hosts", "0"], "--hosts is 0"),
        (["--link", "fast"], "--link is 'fast'"),
        (["--threads", "0"], "--threads is 0"),
        (["--group-size", "64"], "--group-size has no meaning"),
        (["--html", "/nowhere/at/all.html"], "in a folder that exists"),
        (["--workload", "no-such-file"], "--workload no-such-file"),
        (["--rate", "0"], "--rate is 0"),
    ],
)
def test_wrong_options_are_told(
    config: str, words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["diagnose", config, *words]) == cli.EXIT_CALLER
    assert said in capsys.readouterr().err


def test_options_that_were_given_are_in_the_commands() -> None:
    choice = ModelChoice(weights="q4", group=64, threads=2)
    assert choice.words() == {"weights": "q4", "group-size": "64", "threads": "2"}
    with pytest.raises(InvalidConfig, match="prefill-chunk"):
        ModelChoice(chunk=0)


def test_the_slowest_measured_link_stands_in_for_one_that_was_not_given() -> None:
    near, far, loop = Link("a:1", 1e-5, 5.0), Link("b:1", 9e-5, 1.0), Link("loopback", 1.0, 9.0)
    assert read_link(None, (near, far, loop)) == far
    assert read_link(None, (loop,)) is None
    assert read_link("50us,1.2", (near,)) == Link("as given", pytest.approx(5e-5), 1.2)
