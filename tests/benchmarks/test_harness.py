"""The benchmark harness: rows, table, JSON lines and chart, with a peer that fails."""

from __future__ import annotations

import json
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import chart
import engines
import pytest
import report
import rounds
import rows
import workers
from shapes import SHAPES

WORKER = """
import json, sys
print(json.dumps({"ready": True, "bytes": 1000}), flush=True)
for line in sys.stdin:
    print(json.dumps(ANSWER), flush=True)
"""


def worker_spec(answer: dict[str, object]) -> workers.WorkerSpec:
    return workers.WorkerSpec("fake", (sys.executable, "-c", WORKER.replace("ANSWER", repr(answer))))


def make_race(folder: Path) -> rounds.Race:
    """Narrows answered decode twice, llama.cpp once and more slowly, OpenVINO failed as a whole."""
    ours, theirs, broken = engines.choose(["llamacpp", "openvino"], ["q4", "q4_0", "int4"])[:3]
    race = rounds.Race("tiny", SHAPES["tiny"], folder, [ours, theirs, broken], threads=2, rounds=2)
    race.values = {(ours, "decode"): [100.0, 120.0], (theirs, "decode"): [55.0], (ours, "cold"): [0.5]}
    race.num_bytes = {ours: 1e8, theirs: 1e8}
    race.bandwidths, race.peaks = [22.0], [500.0]
    race.fail(broken, "", workers.EngineError("no environment: run setup.sh"))
    race.fail(theirs, "cold", workers.EngineError("ended with 1"))
    return race


def test_rates_count_the_tokens_that_the_question_names() -> None:
    answer = {"first_s": 2.0, "rest_s": 4.0}
    assert rows.rate(rows.QUESTIONS["decode"], answer) == 96 / 4
    assert rows.rate(rows.QUESTIONS["prefill"], answer) == 512 / 2
    assert rows.rate(rows.QUESTIONS["streams8"], answer) == 8 * 64 / 6


def test_every_question_fits_the_context_and_the_kv_tokens_that_workers_get() -> None:
    for question in rows.QUESTIONS.values():
        tokens = question.prompt + question.tokens
        assert tokens <= rows.CONTEXT
        assert tokens * question.streams <= rows.KV_TOKENS


def test_rows_have_medians_fractions_and_the_errors_of_failed_engines(tmp_path: Path) -> None:
    made = {
        (row.engine, row.question): row for row in rounds.make_rows(make_race(tmp_path), ["decode", "cold"])
    }
    assert len(made) == 6
    decode = made["narrows q4", "decode"]
    assert (decode.value, decode.low, decode.high) == (110.0, 100.0, 120.0)
    assert decode.fraction_of_ceiling == pytest.approx(110 * 1e8 / 22e9)
    assert made["llama.cpp q4_0", "cold"].error == "ended with 1"
    for question in ("decode", "cold"):
        failed = made["openvino int4", question]
        assert failed.value is None
        assert failed.error == "no environment: run setup.sh"


def test_the_table_lists_a_failed_peer_with_its_error_and_ratios_leave_it_out(tmp_path: Path) -> None:
    made = rounds.make_rows(make_race(tmp_path), ["decode", "cold"])
    lines = report.table(made)
    assert len(lines) == 1 + len(made)
    assert any("openvino int4" in line and "failed: no environment" in line for line in lines)
    assert report.ratios(made) == [
        "tiny           decode      narrows q4 / best 4-bit peer (llama.cpp q4_0) = 2.00"
    ]


def test_json_lines_keep_the_whole_error_and_the_chart_draws_it(tmp_path: Path) -> None:
    made = rounds.make_rows(make_race(tmp_path), ["decode"])
    target = tmp_path / "results" / "cpu.jsonl"
    report.append(made, {"cpu": "test"}, target)
    read = [json.loads(line) for line in target.read_text().splitlines()]
    assert [row["value"] for row in read] == [110.0, 55.0, None]
    assert read[2]["error"] == "no environment: run setup.sh"
    svg = chart.draw(chart.read_rows([target]), ["decode", "prefill"])
    texts = [element.text for element in ElementTree.fromstring(svg).iter() if element.tag.endswith("text")]
    assert "does not run: no environment: run setup.sh" in texts
    assert texts.index("narrows q4") < texts.index("llama.cpp q4_0") < texts.index("openvino int4")


def test_the_chart_takes_the_newest_run_of_a_question_only(tmp_path: Path) -> None:
    old = {"time": 1, "shape": "tiny", "engine": "a", "question": "decode", "value": 1}
    new = {**old, "time": 2, "engine": "b"}
    other = {**old, "question": "cold"}
    file = tmp_path / "rows.jsonl"
    file.write_text("\n".join(json.dumps(row) for row in (old, new, other)))
    assert chart.read_rows([file]) == [new, other]


def test_a_worker_that_answers_an_error_or_ends_raises_engine_error() -> None:
    with (
        workers.Worker(worker_spec({"error": "ValueError: /a/folder/of/this machine"})) as worker,
        pytest.raises(workers.EngineError, match="ValueError: this machine"),
    ):
        worker.ask("generate")
    ends = workers.WorkerSpec("fake", (sys.executable, "-c", "raise SystemExit('out of luck')"))
    with pytest.raises(workers.EngineError, match=r"ended with 1: out of luck"):
        workers.Worker(ends)
    with pytest.raises(workers.EngineError, match="cannot start"):
        workers.Worker(workers.WorkerSpec("fake", ("/nonexistent/python",)))


def test_a_worker_that_answers_is_asked_in_order() -> None:
    with workers.Worker(worker_spec({"first_s": 1.0, "rest_s": 2.0})) as worker:
        assert worker.hello["bytes"] == 1000
        assert worker.ask("generate", streams=1) == {"first_s": 1.0, "rest_s": 2.0}


def test_a_peer_without_environment_or_with_a_failing_conversion_is_an_engine_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engines, "HERE", tmp_path)
    engine = engines.Engine("openvino", "int4")
    with pytest.raises(workers.EngineError, match=r"no environment: run benchmarks/peers/setup.sh openvino"):
        engines.convert(engine, tmp_path, again=False)
    engine.python.parent.mkdir(parents=True)
    engine.python.symlink_to(sys.executable)
    with pytest.raises(workers.EngineError, match="conversion ended with 2"):
        engines.convert(engine, tmp_path, again=False)
    assert not (tmp_path / "part-int4.openvino").exists()


def test_a_conversion_is_timed_once_and_again_when_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engines, "HERE", tmp_path)
    engine = engines.Engine("openvino", "int4")
    engine.python.parent.mkdir(parents=True)
    engine.python.symlink_to(sys.executable)
    script = tmp_path / "peers/openvino_convert.py"
    script.parent.mkdir()
    script.write_text("import pathlib, sys\npathlib.Path(sys.argv[3]).mkdir()\n")
    seconds = engines.convert(engine, tmp_path, again=False)
    assert seconds is not None
    assert seconds > 0
    assert engine.artifact(tmp_path).is_dir()
    assert engines.convert(engine, tmp_path, again=False) == seconds
    assert engines.convert(engine, tmp_path, again=True) != seconds


def test_every_round_starts_with_another_engine() -> None:
    chosen = engines.choose(["llamacpp"], ["q4", "q4_0"])
    assert list(rounds.in_turn(chosen, 0)) == chosen
    assert list(rounds.in_turn(chosen, 1)) == chosen[::-1]
    assert list(rounds.in_turn([], 3)) == []
