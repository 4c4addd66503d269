"""Presets, files of requests and traces; bad lines are named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from narrows.diagnose.workload import PRESETS, fit_context, read_workload
from narrows.errors import InvalidConfig


def written(folder: Path, *lines: object, name: str = "requests.jsonl") -> str:
    path = folder / name
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines))
    return str(path)


@pytest.mark.parametrize("name", PRESETS)
def test_presets_are_what_they_say(name: str) -> None:
    found = read_workload(name)
    summary = found.summary()
    assert (summary.name, summary.num_requests) == (name, 0)
    assert summary.prompt_tokens > 0
    assert summary.output_tokens > 0
    assert read_workload(name, streams=7).streams == 7


def test_medians_and_rate_come_from_the_lines(tmp_path: Path) -> None:
    lines = [{"prompt_tokens": 10 * i, "output_tokens": i, "at_s": 2.0 * i} for i in (1, 2, 9)]
    found = read_workload(written(tmp_path, *lines, ""))
    assert (found.prompt_tokens, found.output_tokens) == (20, 2)
    assert found.requests_per_s == pytest.approx(2 / 16)
    assert found.summary().num_requests == 3
    assert read_workload(written(tmp_path, *lines), requests_per_s=5.0).requests_per_s == 5.0


def test_prompts_are_counted_by_the_tokenizer(tmp_path: Path) -> None:
    path = written(tmp_path, {"prompt": "one two three"}, {"prompt": "one", "output_tokens": 4})
    found = read_workload(path, count_tokens=lambda text: len(text.split()))
    assert [one.prompt_tokens for one in found.requests] == [3, 1]
    assert [one.output_tokens for one in found.requests] == [128, 4]
    with pytest.raises(InvalidConfig, match="line 1: a prompt's text, but no tokenizer"):
        read_workload(path)


def test_traces_of_azure_and_mooncake_are_read(tmp_path: Path) -> None:
    azure = written(
        tmp_path,
        "TIMESTAMP,ContextTokens,GeneratedTokens",
        "2023-11-16 18:15:46.6805900,374,44",
        "2023-11-16 18:15:50.6805900,396,109",
        name="azure.csv",
    )
    found = read_workload(azure)
    assert [(one.prompt_tokens, one.output_tokens) for one in found.requests] == [(374, 44), (396, 109)]
    assert found.requests_per_s == pytest.approx(0.25)
    mooncake = written(
        tmp_path,
        {"timestamp": 0, "input_length": 6758, "output_length": 500, "hash_ids": [0, 1]},
        {"timestamp": 3000, "input_length": 100, "output_length": 5, "hash_ids": [0]},
        name="mooncake.jsonl",
    )
    assert [one.at_s for one in read_workload(mooncake).requests] == [0.0, 3.0]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "line 2: not JSON"),
        ("[1]", "line 2: a list"),
        ({"prompt_tokens": 0}, "line 2: prompt_tokens is 0"),
        ({"prompt_tokens": "9"}, "line 2: prompt_tokens is '9'"),
        ({"prompt_tokens": True}, "line 2: prompt_tokens is True"),
        ({"prompt_tokens": 9, "output_tokens": -1}, "line 2: output_tokens is -1"),
        ({"input_length": 5}, "line 2: output_length is None"),
        ({"input_length": 5, "output_length": 1, "timestamp": "x"}, "line 2: timestamp is 'x'"),
        ({"tokens": 5}, "line 2: neither prompt_tokens"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, line: object, said: str) -> None:
    with pytest.raises(InvalidConfig, match=said.replace("[", r"\[")):
        read_workload(written(tmp_path, {"prompt_tokens": 5}, line))


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (("TIMESTAMP,ContextTokens", "2023-11-16 18:15:46,3"), "column GeneratedTokens is missing"),
        (("TIMESTAMP,ContextTokens,GeneratedTokens", "noon,3,4"), "line 2: TIMESTAMP is 'noon'"),
        (
            ("TIMESTAMP,ContextTokens,GeneratedTokens", "2023-11-16 18:15:46,x,4"),
            "line 2: ContextTokens is 'x'",
        ),
        (
            ("TIMESTAMP,ContextTokens,GeneratedTokens", "2023-11-16 18:15:46,3"),
            "line 2: GeneratedTokens is None",
        ),
    ],
)
def test_a_bad_line_of_a_trace_is_named(tmp_path: Path, lines: tuple[str, ...], said: str) -> None:
    with pytest.raises(InvalidConfig, match=said):
        read_workload(written(tmp_path, *lines, name="t.csv"))


def test_what_is_no_workload_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidConfig, match="give one of chat, code"):
        read_workload("chatt")
    with pytest.raises(InvalidConfig, match="holds no request"):
        read_workload(written(tmp_path, ""))
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InvalidConfig, match="not UTF-8"):
        read_workload(str(tmp_path / "binary"))
    with pytest.raises(InvalidConfig, match="--concurrency is 0"):
        read_workload("chat", streams=0)
    with pytest.raises(InvalidConfig, match="--rate is -1"):
        read_workload("chat", requests_per_s=-1)


def test_lengths_are_scaled_alike_to_the_context(tmp_path: Path) -> None:
    found = read_workload(
        written(tmp_path, *({"prompt_tokens": n, "output_tokens": n // 10} for n in (100, 1000, 2000)))
    )
    assert fit_context(found, 4000) is found
    small = fit_context(found, 550)
    assert small.scaled == pytest.approx(0.25)
    assert [one.prompt_tokens for one in small.requests] == [25, 250, 500]
    assert max(one.prompt_tokens + one.output_tokens for one in small.requests) <= 550
    tight = fit_context(found, 2)
    assert all(one.prompt_tokens == one.output_tokens == 1 for one in tight.requests)
