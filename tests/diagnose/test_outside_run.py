"""`narrows diagnose --url` as a user types it: over sockets, against a scripted server and our own."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from html.parser import HTMLParser
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from narrows import cli
from narrows.bench.fake import Script
from narrows.diagnose.outside.html import page
from tests.bench.test_bench_verb import serving
from tests.diagnose.simulated_server import Behaviour
from tests.diagnose.test_outside_verdicts import examined

needs_core = pytest.mark.skipif(find_spec("narrows._core") is None, reason="the native core is not built")


def answer(body: Mapping[str, Any], number: int) -> Script:
    """A prompt token takes 0.1 ms, a token of the answer 3 ms."""
    words = len(body["messages"][0]["content"].split()) if "messages" in body else 1
    gaps = [0.01 + words * 1e-4, *([0.003] * (int(body["max_tokens"]) - 1))]
    return Script(tuple((gap, 1) for gap in gaps))


def diagnose(url: str, *words: str) -> int:
    return cli.main(["diagnose", "--url", url, *words])


def test_text_page_and_json_over_sockets(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    with serving(answer, max_model_len=1024) as server:
        assert diagnose(server.url, "--seconds", "12", "--html", str(path), "--workload", "code") == 0
        shown = capsys.readouterr().out
        assert diagnose(server.url, "--seconds", "6", "--json", "--concurrency", "2") == 0
        prompts = [
            one.request["messages"][0]["content"] for one in server.stamps if "messages" in one.request
        ]
    for word in ("now: first token after", "alone", "at once", "Why", "reading the prompt"):
        assert word in shown
    assert "0 failed" in shown
    assert path.read_text().startswith("<!doctype html>")
    made = json.loads(capsys.readouterr().out)
    assert made["version"] == 1
    assert made["workload"]["streams"] == 2
    assert made["seen"]["line"]["per_token_s"]["value"] == pytest.approx(1e-4, rel=0.5)
    assert {one["kind"] for one in made["findings"]} >= {"overhead", "prefill", "decode"}
    # Two runs ask different words: a prefix cache must not know them.
    long = [text for text in prompts if len(text.split()) > 700]
    assert len({text[:200] for text in long}) > 2


@pytest.mark.parametrize(
    ("fault", "kind"),
    [("close", "closed"), ("garbage", "malformed"), ("bad_json", "malformed"), ("hang", "timeout_first")],
)
def test_a_first_request_that_fails_is_a_report(
    fault: Any, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with serving(lambda body, number: Script(fault=fault)) as server:
        assert diagnose(server.url, "--json", "--timeout", "0.5") == 1
        made = json.loads(capsys.readouterr().out)
        assert made["seen"]["failures"]["kinds"] == {kind: 1}
        assert made["findings"][0]["kind"] == "failures"
        assert made["now"] is None
        assert diagnose(server.url, "--timeout", "0.5") == 1
    assert "1 of 1 request failed" in capsys.readouterr().out


def test_a_server_that_dies_midway_is_counted(capsys: pytest.CaptureFixture[str]) -> None:
    def choose(body: Mapping[str, Any], number: int) -> Script:
        return answer(body, number) if number < 30 else Script(fault="reset", fault_at=1)

    with serving(choose, max_model_len=1024) as server:
        assert diagnose(server.url, "--seconds", "10") == 0
    shown = capsys.readouterr().out
    assert "given up, as one request after another failed" in shown
    assert "closed" in shown
    assert "Not measured" in shown


def test_nobody_listens(capsys: pytest.CaptureFixture[str]) -> None:
    assert diagnose("http://127.0.0.1:9") == cli.EXIT_CALLER
    assert "is the server up" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--url", "127.0.0.1:8000"], "is no URL"),
        (["--url", "http://127.0.0.1:9", "model"], "a model is about a model that is run here"),
        (["--url", "http://127.0.0.1:9", "--check"], "--check is about a model"),
        (["--url", "http://127.0.0.1:9", "--target", "ttft"], "--target is about a model"),
        (["--url", "http://127.0.0.1:9", "--seconds", "1"], "--seconds is 1"),
        (["--url", "http://127.0.0.1:9", "--timeout", "0"], "--timeout is 0"),
        (["--url", "http://127.0.0.1:9", "--workload", "nothing"], "--workload nothing"),
        (["--url", "http://127.0.0.1:9", "--html", "/nowhere/at.html"], "in a folder that exists"),
        (["--seconds", "5"], "--seconds needs --url"),
        (["http://127.0.0.1:9"], "write --url http://127.0.0.1:9"),
    ],
)
def test_wrong_options_are_told(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["diagnose", *words]) == cli.EXIT_CALLER
    assert said in capsys.readouterr().err


def test_ctrl_c_keeps_what_was_measured() -> None:
    stuck = threading.Event()

    def choose(body: Mapping[str, Any], number: int) -> Script:
        if number < 40:
            return answer(body, number)
        stuck.set()
        return Script(((0.01, 1), (600.0, 1)))

    with serving(choose, max_model_len=1024) as server:
        process = subprocess.Popen(
            [sys.executable, "-m", "narrows.cli", "diagnose", "--url", server.url, "--timeout", "500"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            assert stuck.wait(60)
            process.send_signal(signal.SIGINT)
            output, errors = process.communicate(timeout=60)
        finally:
            process.kill()
            process.wait()
    assert process.returncode == cli.EXIT_INTERRUPTED, errors
    assert "ended early: interrupted by Ctrl-C" in output
    assert "reading the prompt" in output or "TTFT (95 % interval)" in output
    assert "Traceback" not in errors


class Page(HTMLParser):
    """Nesting, and what a browser would fetch or run."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.names: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.names |= {name for name, _ in attrs}
        if tag not in ("meta", "line", "circle", "path"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.mark.parametrize("behaviour", [Behaviour(), Behaviour(breaks_at=0, fault="garbage")])
def test_the_page_is_whole_and_self_contained(behaviour: Behaviour) -> None:
    text = page(examined(behaviour))
    parser = Page()
    parser.feed(text)
    assert parser.open == []
    assert "script" not in parser.tags
    assert not {"src", "href", "srcset", "onclick"} & parser.names
    assert "url(" not in text
    assert parser.tags.count("svg") == (4 if behaviour.breaks_at is None else 0)
    assert "prefers-color-scheme:dark" in text


@needs_core
def test_our_own_server_is_diagnosed(capsys: pytest.CaptureFixture[str]) -> None:
    from narrows.bench.own_server import own_server

    with own_server(["--max-context", "512"]) as url:
        assert diagnose(url, "--seconds", "20", "--json") == 0
    made = json.loads(capsys.readouterr().out)
    assert made["max_context"] == 512
    assert made["seen"]["failures"]["kinds"] == {}
    assert len(made["seen"]["lengths"]) >= 2
    assert made["now"]["e2e_s"] == pytest.approx(sum(made["now"]["parts"].values()))
    assert {one["kind"] for one in made["findings"]} >= {"prefill", "decode"}
    assert {"output tokens", "prompt tokens"} <= {one["what"] for one in made["checks"]}
    assert "ignores-cancels" not in {one["kind"] for one in made["findings"]}
