"""The command: verbs, exit codes, messages, how fast it starts; whole processes over the embedded model."""

from __future__ import annotations

import importlib.util
import io
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from narrows import cli, errors
from narrows.demo import figures
from narrows.errors import InvalidConfig
from narrows.serve.options import size_bytes

needs_core = pytest.mark.skipif(
    importlib.util.find_spec("narrows._core") is None, reason="the native core is not built"
)


def narrows(*words: str, **options) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "narrows.cli", *words],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, **options},
    )


def test_help_lists_every_verb_and_the_version_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--help"]) == 0
    text = capsys.readouterr().out
    assert all(name in text for name in (*cli.VERBS, "version"))
    assert cli.main([]) == cli.EXIT_CALLER
    assert cli.main(["version"]) == cli.main(["--version"]) == 0
    assert "narrows 0." in capsys.readouterr().out


def test_an_unknown_verb_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["serv"]) == cli.EXIT_CALLER
    assert "no verb 'serv'" in capsys.readouterr().err


def test_help_is_shown_without_loading_what_the_verbs_need() -> None:
    code = (
        "import sys, narrows.cli; narrows.cli.main(['--help']); "
        "heavy = {'numpy', 'pydantic', 'uvicorn', 'tokenizers', 'tqdm', 'torch', 'narrows._core'}; "
        "sys.exit(sorted(heavy & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    took_s = []
    for _ in range(5):
        began_s = time.perf_counter()
        narrows("--help")
        bare_s = time.perf_counter()
        subprocess.run([sys.executable, "-c", "pass"], check=True, timeout=60)
        took_s.append((bare_s - began_s) - (time.perf_counter() - bare_s))
    assert min(took_s) < 0.1, "beyond an empty Python"


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.InvalidModel("m"), 2),
        (errors.OutOfMemory("m"), 3),
        (errors.Overloaded("m"), 3),
        (errors.InternalError("m"), 1),
        (errors.RequestAborted("m"), 1),
    ],
)
def test_errors_become_one_line_and_an_exit_code(error, code, monkeypatch, capsys) -> None:
    class Failing:
        configure = staticmethod(lambda parser: None)

        @staticmethod
        def run(arguments) -> int:
            raise error

    monkeypatch.setattr(cli.importlib, "import_module", lambda name: Failing)
    assert cli.main(["serve"]) == code
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("verb", ["serve", "chat"])
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["/no/such/folder"], "does not exist"),
        (["--threads", "0"], "threads is 0"),
        (["--group-size", "7"], "group is 7"),
        (["--max-context", "0"], "max_context is 0"),
        (["--max-waiting", "-1"], "max_waiting is -1"),
        (["--kv-memory", "much"], "'much' is no size"),
        (["--kv-memory", "9" * 400], "is more than any machine has"),
        (["--weights", "bf16", "--group-size", "64"], "--group-size has no meaning for --weights bf16"),
        (["~nobody-of-this-name/model"], "is no usable path"),
    ],
)
@needs_core
def test_wrong_options_end_with_two_and_a_line(verb, words, message, capsys) -> None:
    port = ["--port", "0"] if verb == "serve" else []
    assert cli.main([verb, *port, *words]) == cli.EXIT_CALLER
    assert message in capsys.readouterr().err


def test_impossible_server_options_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words in (
        ["--port", "70000"],
        ["--host", "nowhere.invalid"],
        ["--api-key-file", str(tmp_path / "none")],
    ):
        assert cli.main(["serve", *words]) == cli.EXIT_CALLER
        assert words[1] in capsys.readouterr().err
    for words in (["--weights", "q3"], ["--bogus"]):
        with pytest.raises(SystemExit) as ended:
            cli.main(["serve", *words])
        assert ended.value.code == cli.EXIT_CALLER


def test_a_demo_whose_server_does_not_start_passes_its_message_and_code_on() -> None:
    done = narrows("demo", "/no/such/folder")
    assert done.returncode == cli.EXIT_CALLER
    assert "does not exist" in done.stderr
    assert "Traceback" not in done.stderr


def test_sizes_are_read_with_their_units() -> None:
    assert [size_bytes(text) for text in ("4096", "500M", "2GiB", "1.5k", "3 gb")] == [
        4096,
        500_000_000,
        2 * 1024**3,
        1500,
        3_000_000_000,
    ]
    for text in ("", "M", "-1", "1x", "1e9"):
        with pytest.raises(InvalidConfig, match="no size"):
            size_bytes(text)


def test_the_figures_of_the_demo_follow_from_times_and_bytes() -> None:
    measured = figures.StreamFigures(
        load_s=0.5,
        first_text_s=0.010,
        last_event_s=0.110,
        num_prompt=10,
        num_output=101,
        weight_bytes_per_step=9e6,
        kv_bytes_per_token=1e6 / 60.5,
    )
    assert measured.per_token_s == pytest.approx(1e-3)
    assert measured.bytes_per_token == pytest.approx(1e7)
    text = "\n".join(figures.lines(measured, figures.Ceiling(20.0, 32_000_000, 40.0)))
    assert "1000 tokens/s x 10.0 MB = 10.0 GB/s, 50% of this machine's 20.0 GB/s" in text
    assert "25% of its 40.0 GB/s from cache" in text
    assert "cache" not in "\n".join(figures.lines(measured, figures.Ceiling(20.0, 32_000_000, None)))


@needs_core
def test_the_demo_streams_a_story_and_its_figures() -> None:
    began_s = time.perf_counter()
    done = narrows("demo", "--max-tokens", "60", NARROWS_API_KEY="not-for-the-demo")
    took_s = time.perf_counter() - began_s
    assert done.returncode == 0, done.stderr
    lines = [line.split()[0] for line in done.stdout.splitlines() if line]
    assert lines.index("load") < lines.index("TTFT") < lines.index("TPOT") < lines.index("speed")
    assert "listening on http://127.0.0.1:" in done.stdout
    assert took_s < 20


@needs_core
def test_chat_answers_each_line_and_forgets_the_oldest_when_the_context_is_full() -> None:
    talk = "hello\n\n" + "tell me a story about a cat and a dog please\n" * 4 + "/new\nhello\n/exit\n"
    words = ("--max-context", "64", "--max-tokens", "16", "--seed", "1", "--temperature", "0")
    done = subprocess.run(
        [sys.executable, "-m", "narrows.cli", "chat", *words],
        input=talk,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("TTFT") == 6
    assert "oldest turns are forgotten" in done.stdout
    first, last = done.stdout.splitlines()[0], done.stdout.splitlines()[-3]
    assert first == last, "after /new the same question gets the same answer"


@needs_core
def test_chat_forgets_turns_that_leave_no_room_for_an_answer(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The prompt alone fits into the context, but not with max_tokens of an answer beside it."""
    monkeypatch.setattr("sys.stdin", io.StringIO("tell me a story\n" * 3))
    assert cli.main(["chat", "--max-context", "64", "--max-tokens", "40", "--seed", "1"]) == 0
    shown = capsys.readouterr().out
    assert shown.count("TTFT") == 3
    assert "oldest turns are forgotten" in shown
    assert "max_tokens is" not in shown


@needs_core
def test_characters_that_a_terminal_lacks_and_bytes_that_are_none_end_nothing() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "narrows.cli", "chat", "--max-tokens", "3"],
        input="a caf\u00e9\n".encode() + b"\xff\xfe\n",
        capture_output=True,
        timeout=60,
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(b"TTFT") == 2


def start_server(*words: str, log: Path) -> tuple[subprocess.Popen[str], str]:
    with log.open("w") as errors_file:
        process = subprocess.Popen(
            [sys.executable, "-m", "narrows.cli", "serve", "--port", "0", *words],
            stdout=subprocess.PIPE,
            stderr=errors_file,
            text=True,
        )
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("listening on "):
            return process, line.removeprefix("listening on ").strip()
    raise AssertionError(log.read_text())


@needs_core
@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGINT])
def test_a_stopped_server_finishes_its_answers_and_leaves_with_zero(
    tmp_path: Path, stop: signal.Signals
) -> None:
    import openai

    process, url = start_server(log=tmp_path / "log")
    with process, openai.OpenAI(base_url=f"{url}/v1", api_key="x", max_retries=0, timeout=30) as client:
        stream = client.completions.create(
            model="narrows-stories",
            prompt="Once upon a time",
            max_tokens=600,
            extra_body={"ignore_eos": True},
            stream=True,
        )
        chunks = [next(stream)]
        process.send_signal(stop)
        chunks += list(stream)
        assert chunks[-1].choices[0].finish_reason == "length"
        assert process.wait(20) == 0
    assert "Traceback" not in (tmp_path / "log").read_text()


@needs_core
def test_serving_imports_neither_torch_nor_transformers() -> None:
    code = (
        "import sys, argparse; from narrows.serve import run, options, server, banner, service, metrics\n"
        "parser = argparse.ArgumentParser(); run.configure(parser)\n"
        "opened = options.open_model(parser.parse_args([])); opened.client.close()\n"
        "sys.exit(sorted({'torch', 'transformers'} & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
