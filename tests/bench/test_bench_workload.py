"""Traces, prompt files and synthetic lengths."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from narrows.bench.prompts import Prompt, read_prompts
from narrows.bench.synthetic import Lengths, WordRate, text_of_blocks, text_with_prefix
from narrows.bench.traces import FITS, TraceRow, fit_lengths, fit_times, read_trace
from narrows.bench.workload import SyntheticPlan, from_prompts, from_trace, synthetic
from narrows.errors import InvalidConfig

AZURE = """TIMESTAMP,ContextTokens,GeneratedTokens
2023-11-16 18:17:03.9799600,4808,10
2023-11-16 18:17:04.9799600,110,27
2024-05-10 00:00:00.009930+00:00,34,0
"""
MOONCAKE = [
    {"timestamp": 500, "input_length": 1100, "output_length": 5, "hash_ids": [0, 1, 2]},
    {"timestamp": 3500, "input_length": 1200, "output_length": 7, "hash_ids": [0, 1, 9]},
]
ROWS = st.lists(
    st.builds(TraceRow, st.floats(0, 1e5), st.integers(1, 20_000), st.integers(1, 3000)),
    min_size=1,
    max_size=30,
)


def written(folder: Path, name: str, *lines: object) -> Path:
    path = folder / name
    path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines))
    return path


def test_an_azure_trace(tmp_path: Path) -> None:
    rows = read_trace(written(tmp_path, "a.csv", AZURE.strip()), limit=2)
    assert [(row.at_s, row.num_prompt, row.num_output) for row in rows] == [(0.0, 4808, 10), (1.0, 110, 27)]
    assert read_trace(written(tmp_path, "a.csv", AZURE.strip()))[2].num_output == 1, "none became one"


def test_a_mooncake_trace(tmp_path: Path) -> None:
    rows = read_trace(written(tmp_path, "m.jsonl", *MOONCAKE))
    assert [(row.at_s, row.num_prompt, row.num_output) for row in rows] == [(0.0, 1100, 5), (3.0, 1200, 7)]
    assert rows[1].block_ids == (0, 1, 9)


@pytest.mark.parametrize(
    ("name", "lines", "where"),
    [
        (
            "a.csv",
            ["TIMESTAMP,ContextTokens,GeneratedTokens", "2023-11-16 18:17:03,1,2", "yesterday,1,2"],
            ":3: ",
        ),
        ("a.csv", ["TIMESTAMP,ContextTokens,GeneratedTokens", "2023-11-16 18:17:03,many,2"], ":2: "),
        ("a.csv", ["TIMESTAMP,ContextTokens,GeneratedTokens", "2023-11-16 18:17:03,5"], ":2: "),
        ("a.csv", ["TIMESTAMP,ContextTokens,GeneratedTokens", "2023-11-16 18:17:03,-5,1"], "negative"),
        ("a.csv", ["time,tokens", "1,2"], "no column TIMESTAMP, ContextTokens, GeneratedTokens"),
        ("a.csv", ["TIMESTAMP,ContextTokens,GeneratedTokens"], "no requests"),
        ("m.jsonl", [MOONCAKE[0], "{broken"], ":2: "),
        ("m.jsonl", [MOONCAKE[0], {"timestamp": 1}], "no field 'input_length'"),
        ("m.jsonl", [[1, 2]], ":1: "),
        ("m.jsonl", [{**MOONCAKE[0], "hash_ids": ["x"]}], ":1: "),
    ],
)
def test_a_bad_line_of_a_trace_is_named(tmp_path: Path, name, lines, where) -> None:
    path = written(tmp_path, name, *lines)
    with pytest.raises(InvalidConfig) as raised:
        read_trace(path)
    assert where in str(raised.value)
    assert name in str(raised.value)


def test_a_trace_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InvalidConfig, match="cannot be read"):
        read_trace(tmp_path / "none.csv")


@settings(max_examples=200, deadline=None, derandomize=True)
@given(ROWS, st.integers(2, 5000), st.sampled_from(FITS))
def test_fitted_rows_fit_and_keep_their_times(rows, max_tokens, how) -> None:
    try:
        fitted, factor = fit_lengths(rows, max_tokens, how)
    except InvalidConfig:
        assert how == "drop"
        assert all(row.num_prompt + row.num_output > max_tokens for row in rows)
        return
    assert all(row.num_prompt + row.num_output <= max_tokens for row in fitted)
    assert all(row.num_prompt >= 1 and row.num_output >= 1 for row in fitted)
    assert 0 < factor <= 1
    assert {row.at_s for row in fitted} <= {row.at_s for row in rows}
    if how != "drop":
        assert len(fitted) == len(rows)


def test_scaling_keeps_proportions() -> None:
    rows = [TraceRow(0, 8000, 2000, (1,)), TraceRow(1, 800, 200)]
    fitted, factor = fit_lengths(rows, 1000, "scale")
    assert factor == 0.1
    assert [(row.num_prompt, row.num_output) for row in fitted] == [(800, 200), (80, 20)]
    assert fitted[0].block_tokens == 51
    assert fit_lengths(rows, 10_000, "scale") == (rows, 1.0)


def test_times_are_scaled_by_speed_or_to_a_rate() -> None:
    rows = [TraceRow(float(i), 1, 1) for i in range(11)]
    assert [row.at_s for row in fit_times(rows, speed=2, rate_per_s=None, duration_s=2.0)] == [0, 0.5, 1, 1.5]
    to_rate = fit_times(rows, speed=1, rate_per_s=5.0, duration_s=None)
    assert to_rate[-1].at_s == pytest.approx(2.0)


@pytest.mark.parametrize(
    ("line", "messages", "num_output"),
    [
        ({"prompt": "hi"}, [("user", "hi")], None),
        ({"question": "why?", "answer": "so"}, [("user", "why?")], None),
        ({"turns": ["first", "second"]}, [("user", "first")], None),
        ({"instruction": "add", "input": "1 2"}, [("user", "add\n1 2")], None),
        ({"text": "hi", "max_tokens": 9}, [("user", "hi")], 9),
        (
            {"messages": [{"role": "system", "content": "be"}, {"role": "user", "content": "hi"}]},
            [("system", "be"), ("user", "hi")],
            None,
        ),
        (
            {"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]},
            [("user", "a")],
            None,
        ),
    ],
)
def test_prompts_of_every_shape(tmp_path: Path, line, messages, num_output) -> None:
    ((prompt, found),) = read_prompts(written(tmp_path, "p.jsonl", line))
    assert [(message["role"], message["content"]) for message in prompt.messages] == messages
    assert found == num_output


def test_prompts_may_be_compressed(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl.gz"
    path.write_bytes(gzip.compress(b'{"prompt": "hi"}\n\n{"prompt": "there"}\n'))
    assert [prompt.text for prompt, _ in read_prompts(path)] == ["hi", "there"]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([{"prompt": "a"}, "{"], ":2: this line is no JSON"),
        ([{"prompt": "a"}, "[1]"], ":2: this line should be a JSON object, not list"),
        ([{"prompt": "a"}, {"promt": "b"}], ":2: no prompt in this line"),
        ([{"turns": []}], ":1: no prompt"),
        ([{"messages": [{"role": "tool", "content": "x"}]}], ":1: no prompt"),
        ([{"conversations": [{"from": "gpt", "value": "b"}]}], ":1: no prompt"),
        ([{"prompt": "a", "max_tokens": 0}], ":1: max_tokens is 0"),
        ([""], "has no prompts"),
    ],
)
def test_a_bad_line_of_prompts_is_named(tmp_path: Path, lines, message) -> None:
    with pytest.raises(InvalidConfig) as raised:
        read_prompts(written(tmp_path, "p.jsonl", *lines))
    assert message in str(raised.value)


def test_damaged_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "p.jsonl.gz").write_bytes(b"no gzip")
    (tmp_path / "p.jsonl").write_bytes(b'{"prompt": "\xff"}\n')
    for name in ("p.jsonl.gz", "p.jsonl", "none.jsonl"):
        with pytest.raises(InvalidConfig, match="cannot be read"):
            read_prompts(tmp_path / name)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.integers(1, 500), st.floats(0.5, 3.0), st.floats(0, 20), st.integers(0, 1000))
def test_a_text_has_the_words_its_tokens_need(num_tokens, per_word, overhead, seed) -> None:
    rate = WordRate(per_word, overhead, True)
    text = text_with_prefix(num_tokens, 0, 0, rate, (seed, 1))
    made = overhead + per_word * len(text.split())
    assert abs(made - num_tokens) <= per_word / 2 + 1e-6 or len(text.split()) == 1


def test_prompts_of_a_group_share_a_prefix_and_others_do_not() -> None:
    plan = SyntheticPlan(Lengths(40, 40), Lengths(5, 5), prefix_tokens=30, num_groups=2)
    texts = [synthetic(plan, rate=WordRate(), seed=1)(i).prompt.text.split() for i in range(4)]
    assert texts[0][:30] == texts[2][:30]
    assert texts[1][:30] == texts[3][:30]
    assert texts[0][:30] != texts[1][:30]
    assert texts[0][30:] != texts[2][30:]
    assert {len(words) for words in texts} == {40}


def test_blocks_with_the_same_id_are_the_same_text() -> None:
    rate = WordRate()
    first = text_of_blocks(1100, (0, 1, 2), 512, rate, (7, 0)).split()
    second = text_of_blocks(1200, (0, 1, 9), 512, rate, (7, 1)).split()
    assert first[:1024] == second[:1024]
    assert first[1024:] != second[1024 : len(first)]
    assert (len(first), len(second)) == (1100, 1200)


def test_a_request_does_not_depend_on_how_many_there_are() -> None:
    plan = SyntheticPlan(Lengths(5, 50), Lengths(1, 9))
    one, other = synthetic(plan, rate=WordRate(), seed=3), synthetic(plan, rate=WordRate(), seed=3)
    assert [one(i) for i in range(5)] == [other(i) for i in reversed(range(5))][::-1]
    assert one(0) != synthetic(plan, rate=WordRate(), seed=4)(0)


def test_prompts_come_in_order_over_and_over() -> None:
    rows = [(Prompt.of_text("a"), 3), (Prompt.of_text("b"), None)]
    workload = from_prompts(rows, output=Lengths(8, 8), seed=0, order=[1, 0])
    assert [(workload(i).prompt.text, workload(i).max_tokens) for i in range(3)] == [
        ("b", 8),
        ("a", 3),
        ("b", 8),
    ]


def test_a_trace_becomes_requests_at_its_times() -> None:
    found = from_trace([TraceRow(0.0, 4, 5), TraceRow(2.5, 6, 7)], rate=WordRate(), seed=0)
    assert [(one.at_s, one.num_prompt, one.max_tokens) for one in found] == [(0.0, 4, 5), (2.5, 6, 7)]
    assert [len(one.prompt.text.split()) for one in found] == [4, 6]


@pytest.mark.parametrize("text", ["", "0", "x", "5:2", "1:2:3", "-4", "1.5"])
def test_lengths_that_are_none_are_refused(text) -> None:
    with pytest.raises(InvalidConfig, match="--input-tokens"):
        Lengths.parse(text, "--input-tokens")
