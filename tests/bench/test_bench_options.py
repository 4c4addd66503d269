"""Options that contradict each other or mean nothing end before anything is sent, with exit code 2."""

from __future__ import annotations

import socket

import pytest

from narrows import cli


def bench(*words: str) -> int:
    return cli.main(["bench", *words])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["127.0.0.1:8000"], "write http://127.0.0.1:8000"),
        (["http://x", "--serve=--threads 2"], "runs already"),
        (["http://x", "--rate", "0"], "sends nothing"),
        (["http://x", "--requests", "0"], "--requests is 0"),
        (["http://x", "--concurrency", "0"], "--concurrency is 0"),
        (["http://x", "--duration", "-1"], "--duration is -1"),
        (["http://x", "--timeout", "0"], "--timeout is 0"),
        (["http://x", "--arrivals", "burst"], "--arrivals needs --rate"),
        (["http://x", "--rate", "1", "--burst-size", "3"], "--burst-size needs --arrivals burst"),
        (["http://x", "--slo", "ttft=5"], "its unit"),
        (["http://x", "--input-tokens", "x"], "--input-tokens 'x'"),
        (["http://x", "--prefix-groups", "2"], "needs --prefix-tokens"),
        (["http://x", "--shuffle"], "needs --prompts"),
        (["http://x", "--trace-fit", "clip"], "needs --trace"),
        (["http://x", "--trace", "t.csv", "--concurrency", "2"], "brings its arrivals"),
        (["http://x", "--trace", "t.csv", "--output-tokens", "2"], "no trace"),
        (["http://x", "--trace", "t.csv", "--trace-speed", "2", "--rate", "1"], "give one"),
        (["http://x", "--trace", "none.csv"], "cannot be read"),
        (["http://x", "--prompts", "none.jsonl"], "cannot be read"),
        (["http://x", "--prompts", "a", "--trace", "b"], "two workloads"),
        (["http://x", "--extra", "[1]"], "should be a JSON object"),
        (["http://x", "--extra", "{"], "no JSON"),
        (["http://x", "--extra", '{"stream": false}'], "sets 'stream'"),
        (["http://x", "--output", "/no/such/folder/a.json"], "no folder"),
        (["http://nowhere.invalid:1"], "no connection to nowhere.invalid:1"),
        (["--api-key", "k"], "takes none"),
        (["--serve", "'open"], "No closing quotation"),
        (["--compare", "a.json", "b.json"], "no result of narrows bench"),
    ],
)
def test_wrong_options_end_with_two_and_a_line(words, message, capsys) -> None:
    assert bench(*words) == cli.EXIT_CALLER
    shown = capsys.readouterr().err
    assert message in shown
    assert "Traceback" not in shown


def test_nobody_listening_is_said(capsys) -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        port = bound.getsockname()[1]
    assert bench(f"http://127.0.0.1:{port}") == cli.EXIT_CALLER
    assert "is the server up" in capsys.readouterr().err
