"""`narrows bench` as a user types it: against a scripted server, and against our own."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from narrows import cli
from narrows.bench.fake import Script, ScriptedServer

QUICK = Script(tuple((0.001, 1) for _ in range(4)))
needs_core = pytest.mark.skipif(find_spec("narrows._core") is None, reason="the native core is not built")


@contextmanager
def serving(
    choose: Callable[[Mapping[str, Any], int], Script] = lambda body, number: QUICK, **options: Any
) -> Iterator[ScriptedServer]:
    """A scripted server in a thread of its own."""
    server = ScriptedServer(choose, **options)
    loop_box: list[asyncio.AbstractEventLoop] = []
    up, down = threading.Event(), asyncio.Event()

    async def run() -> None:
        loop_box.append(asyncio.get_running_loop())
        async with server.running():
            up.set()
            await down.wait()

    thread = threading.Thread(target=lambda: asyncio.run(run()))
    thread.start()
    try:
        assert up.wait(20)
        yield server
    finally:
        loop_box[0].call_soon_threadsafe(down.set)
        thread.join(20)


def bench(*words: str) -> int:
    return cli.main(["bench", *words])


def as_json(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    return json.loads(capsys.readouterr().out)


def test_a_table_of_a_closed_loop(capsys) -> None:
    with serving() as server:
        assert bench(server.url, "--requests", "12", "--concurrency", "3", "--slo", "e2e=30s") == 0
    shown = capsys.readouterr().out
    assert "3 users: 12 of 12 requests answered" in shown
    assert "100.0% of all meet E2E <= 30000 ms" in shown
    for word in ("TTFT", "TPOT", "ITL", "E2E", "scripted at http://127.0.0.1"):
        assert word in shown


def test_an_open_loop_as_json_with_files(capsys, tmp_path: Path) -> None:
    result, page = tmp_path / "a.json", tmp_path / "a.html"
    with serving(max_model_len=2048) as server:
        words = ["--rate", "200", "--requests", "30", "--input-tokens", "20:40", "--output-tokens", "9"]
        code = bench(
            server.url, *words, "--json", "--output", str(result), "--html", str(page), "--warmup", "1"
        )
    assert code == 0
    shown, written = as_json(capsys), json.loads(result.read_text())
    summary = shown["phases"][0]["summary"]
    assert summary["requests"] == {**summary["requests"], "planned": 30, "sent": 30, "ok": 30, "short": 30}
    assert "records" not in shown["phases"][0]
    assert len(written["phases"][0]["records"]) == 30
    assert page.read_text().startswith("<!doctype html>")
    asked = [stamps.request for stamps in server.stamps]
    measured = [body for body in asked if body.get("max_tokens") == 9]
    assert len(measured) == 31, "and one to warm up"
    assert all(body["ignore_eos"] is True and body["stream"] is True for body in measured)
    # The scripted tokenizer takes five tokens for the template and one for a word.
    lengths = [len(body["messages"][0]["content"].split()) + 5 for body in measured]
    assert min(lengths) >= 20
    assert max(lengths) <= 40
    assert len(set(lengths)) > 5


def test_the_same_seed_gives_the_same_load(capsys, tmp_path: Path) -> None:
    sent = []
    for seed in ("1", "1", "2"):
        with serving() as server:
            assert bench(server.url, "--rate", "300", "--requests", "8", "--seed", seed, "--json") == 0
            prompts = [stamps.request["messages"][0]["content"] for stamps in server.stamps]
            sent.append(sorted(prompts[-8:]))
    assert sent[0] == sent[1]
    assert sent[0] != sent[2]


def test_a_sweep_goes_from_rate_to_rate_with_prompts_of_its_own(capsys) -> None:
    with serving() as server:
        assert bench(server.url, "--sweep", "50,100,200", "--requests", "25", "--arrivals", "constant") == 0
        prompts = [stamps.request["messages"][0]["content"] for stamps in server.stamps]
    shown = capsys.readouterr().out
    assert shown.count("25 of 25 requests answered") == 3
    assert "offered/s" in shown
    assert len(set(prompts[-75:])) == 75, "a prefix cache must not know a rate's prompts from the rate before"


def test_prompts_from_a_file(capsys, tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    path.write_text('{"turns": ["what is it?", "and then?"]}\n{"prompt": "say so", "max_tokens": 2}\n')
    with serving() as server:
        words = ["--prompts", str(path), "--requests", "4", "--output-tokens", "4", "--warmup", "0"]
        assert bench(server.url, *words, "--route", "completions") == 0
        asked = [(stamps.request["prompt"], stamps.request["max_tokens"]) for stamps in server.stamps][-4:]
    assert asked == [("what is it?", 4), ("say so", 2)] * 2
    assert "2 prompts serve 4 requests" in capsys.readouterr().out


def test_a_trace_is_fitted_to_the_servers_context(capsys, tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    rows = [f"2023-11-16 18:00:{i:02d}.5,{1000 * (i + 1)},{100 * (i + 1)}" for i in range(10)]
    path.write_text("TIMESTAMP,ContextTokens,GeneratedTokens\n" + "\n".join(rows) + "\n")
    with serving(max_model_len=567) as server:
        assert bench(server.url, "--trace", str(path), "--trace-speed", "100", "--warmup", "0") == 0
        asked = [stamps.request for stamps in server.stamps][-10:]
    shown = capsys.readouterr().out
    assert "10 of 10 requests answered" in shown
    assert "lengths x 0.0499 to fit a context of 567 tokens" in shown
    lengths = {body["max_tokens"]: len(body["messages"][0]["content"].split()) + 5 for body in asked}
    assert lengths == {round(4.99 * (i + 1)): pytest.approx(49.9 * (i + 1), abs=1.01) for i in range(10)}


def test_failures_are_counted_and_nothing_measured_ends_with_one(capsys) -> None:
    def choose(body: Mapping[str, Any], number: int) -> Script:
        asked = body["max_tokens"]
        return QUICK if asked != 64 else Script(status=500, body=b'{"error": {"message": "broken"}}')

    with serving(choose) as server:
        assert bench(server.url, "--requests", "5", "--warmup", "0") == 1
    shown = capsys.readouterr().out
    assert "0 of 5 requests answered" in shown
    assert "5 http 500: broken" in shown


def test_some_failures_are_no_reason_to_fail(capsys) -> None:
    def choose(body: Mapping[str, Any], number: int) -> Script:
        return Script(status=429) if number % 4 == 0 and body["max_tokens"] == 64 else QUICK

    with serving(choose) as server:
        assert bench(server.url, "--requests", "20", "--warmup", "0") == 0
    assert "15 of 20 requests answered" in capsys.readouterr().out


def test_a_file_that_cannot_be_written_costs_no_table(capsys, tmp_path: Path) -> None:
    with serving() as server:
        assert bench(server.url, "--requests", "3", "--output", "/dev/full") == cli.EXIT_CALLER
    shown = capsys.readouterr()
    assert "3 of 3 requests answered" in shown.out
    assert "cannot be written to /dev/full" in shown.err


def test_two_results_are_compared(capsys, tmp_path: Path) -> None:
    paths = [str(tmp_path / name) for name in ("a.json", "b.json")]
    for path in paths:
        with serving() as server:
            assert bench(server.url, "--requests", "30", "--output", path) == 0
    capsys.readouterr()
    assert bench("--compare", *paths) == 0
    assert "figures differ. By chance alone" in capsys.readouterr().out
    assert bench("--compare", *paths, "--json") == 0
    assert {row["figure"] for row in as_json(capsys)["rows"]} >= {"TTFT p50", "requests/s"}
    assert bench("--compare", *paths, "--rate", "3") == 2
    assert "leave out rate" in capsys.readouterr().err


def test_a_context_too_short_for_the_workload_is_said(capsys) -> None:
    with serving(max_model_len=100) as server:
        assert bench(server.url) == cli.EXIT_CALLER
    assert "do not fit into the server's context of 100" in capsys.readouterr().err


def test_ctrl_c_keeps_and_reports_what_was_measured(tmp_path: Path) -> None:
    """The first answers are quick, the later ones never end: Ctrl-C comes when one of those is under way."""

    def choose(body: Mapping[str, Any], number: int) -> Script:
        if body["max_tokens"] != 64:
            return QUICK
        measured.append(number)
        if len(measured) <= 6:
            return QUICK
        stuck.set()
        return Script(((0.01, 1), (600.0, 1)))

    measured: list[int] = []
    stuck = threading.Event()
    result = tmp_path / "a.json"
    with serving(choose) as server:
        words = ["bench", server.url, "--requests", "50", "--warmup", "0", "--output", str(result)]
        process = subprocess.Popen(
            [sys.executable, "-m", "narrows.cli", *words],
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
    assert "6 of 7 requests answered" in output
    assert "1 interrupted by Ctrl-C" in output
    assert "stopped by Ctrl-C" in output
    assert "Traceback" not in errors
    written = json.loads(result.read_text())
    assert written["was_stopped"] is True
    assert len(written["phases"][0]["records"]) == 7


@needs_core
def test_a_model_is_served_for_the_bench_and_agrees_with_what_it_says(capsys) -> None:
    environment = dict(os.environ)
    assert bench("--requests", "6", "--concurrency", "2", "--serve=--max-context 256", "--json") == 0
    shown = as_json(capsys)
    assert shown["target"]["url"] == "our own server"
    assert shown["target"]["max_context"] == 256
    summary = shown["phases"][0]["summary"]
    assert summary["requests"]["ok"] == 6
    assert summary["tokens"]["output"] == 6 * 64
    checks = {check["what"]: check for check in shown["phases"][0]["server"]}
    assert checks["output tokens"]["client"] == checks["output tokens"]["server"] == 6 * 64
    assert checks["prompt tokens"]["client"] == checks["prompt tokens"]["server"]
    assert {"TTFT, mean", "TPOT, mean", "TTFT, median", "TPOT, median"} <= checks.keys()
    assert dict(os.environ) == environment


@needs_core
def test_counts_in_every_chunk_make_itl_known_on_our_server(capsys) -> None:
    words = ["--requests", "4", "--extra", '{"logprobs": true}', "--json"]
    assert bench(*words) == 0
    tokens = as_json(capsys)["phases"][0]["summary"]["tokens"]
    assert tokens["unknown_itl"] < tokens["known_itl"]
    assert tokens["unknown_itl"] + tokens["known_itl"] == 4 * 63


@needs_core
def test_a_model_that_is_not_there_ends_with_the_servers_message_and_code(capfd) -> None:
    assert bench("/no/such/folder") == cli.EXIT_CALLER
    assert "does not exist" in capfd.readouterr().err
