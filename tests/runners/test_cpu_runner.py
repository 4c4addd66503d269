"""The runner's own duties: options reach the core, results keep their order, sizes are checked."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from narrows import _core
from narrows.engine.step import Runner, SamplingParams, SequenceStep, Step
from narrows.errors import InternalError, InvalidConfig, OutOfMemory, UnsupportedHardware
from narrows.kernels.formats import KV_BLOCK
from narrows.models.checkpoint import open_checkpoint
from narrows.models.config import read_config
from narrows.models.families import build_spec
from narrows.models.sizes import kv_bytes_per_token
from narrows.runners import loading, memory
from narrows.runners.cpu import CpuRunner
from narrows.runners.memory import available_bytes
from narrows.runners.options import CpuOptions
from narrows.runners.plan import Recipe, make_plan
from tests.models.tiny import prompt, save_tiny

IDS = tuple(prompt(10))
GREEDY = SamplingParams(temperature=0.0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model")
    save_tiny("llama_tied", path)
    return path


@pytest.fixture
def runner(folder: Path) -> CpuRunner:
    return CpuRunner.from_folder(folder, CpuOptions(cache=False, num_blocks=32, threads=1))


def step(request_id: int, **changes: object) -> SequenceStep:
    values = {"token_ids": IDS, "start": 0, "block_ids": (request_id,), "sample": True} | changes
    return SequenceStep(request_id=request_id, **values)  # type: ignore[arg-type]


def log_softmax(row: np.ndarray) -> np.ndarray:
    shifted = row.astype(np.float64) - row.max()
    return shifted - np.log(np.exp(shifted).sum())


def test_it_is_a_runner(runner: CpuRunner) -> None:
    seam: Runner = runner
    assert seam.info.vocab_size == 96
    assert seam.info.block_size * seam.info.num_blocks == 512
    assert seam.info.max_context == 128
    assert seam.info.weight_bytes_per_step > 0
    assert set(runner.load_times) == {"read", "pack", "build"}


def test_results_come_in_the_order_of_the_step(runner: CpuRunner) -> None:
    for request_id in (3, 1, 2):
        runner.add(request_id, GREEDY, IDS)
    sequences = (step(3), step(1, sample=False), step(2, token_ids=IDS[:4]))
    result = runner.run(Step(sequences))
    assert [sequence.request_id for sequence in result.sequences] == [3, 1, 2]
    assert result.sequences[1].drawn == ()
    logits = runner.logits(list(IDS))
    assert result.sequences[0].drawn
    assert result.sequences[0].drawn[0].token_id == int(logits[-1].argmax())
    assert result.sequences[2].drawn
    assert result.sequences[2].drawn[0].token_id == int(logits[3].argmax())


def test_logprobs_are_those_of_the_model_and_only_where_wanted(runner: CpuRunner) -> None:
    runner.add(1, SamplingParams(temperature=0.0, top_logprobs=3), IDS)
    runner.add(2, GREEDY, IDS)
    with_logprobs, without = (r.drawn[0] for r in runner.run(Step((step(1), step(2)))).sequences)
    wanted = log_softmax(runner.logits(list(IDS))[-1])
    best = np.argsort(-wanted)[:3]
    assert [item.token_id for item in with_logprobs.top] == best.tolist()
    np.testing.assert_allclose([item.logprob for item in with_logprobs.top], wanted[best], atol=1e-5)
    assert with_logprobs.logprob == pytest.approx(wanted[best[0]], abs=1e-5)
    assert (without.logprob, without.top) == (None, ())


def test_prompt_logprobs_are_reported_row_by_row(runner: CpuRunner) -> None:
    runner.add(1, GREEDY, IDS)
    targets = (*IDS[1:6], -1, *IDS[7:], -1)
    (result,) = runner.run(Step((step(1, sample=False, targets=targets, target_top=2),))).sequences
    logits = runner.logits(list(IDS))
    assert result.drawn == ()
    assert [row is None for row in result.targets] == [target < 0 for target in targets]
    for row, target, logit in zip(result.targets, targets, logits, strict=True):
        if row is None:
            continue
        wanted = log_softmax(logit)
        assert row[0].token_id == target
        assert row[0].logprob == pytest.approx(wanted[target], abs=1e-5)
        assert [item.token_id for item in row[1]] == np.argsort(-wanted)[:2].tolist()


@pytest.mark.parametrize(
    ("params", "allowed"),
    [
        (SamplingParams(temperature=0.0, logit_bias=((5, 1000.0),)), {5}),
        (SamplingParams(temperature=1.0, top_k=1, seed=3), None),
        (
            SamplingParams(
                temperature=0.0, logit_bias=((5, 1000.0), (6, 999.0)), min_tokens=1, stop_token_ids=(5,)
            ),
            {6},
        ),
    ],
)
def test_sampling_options_reach_the_core(
    runner: CpuRunner, params: SamplingParams, allowed: set[int] | None
) -> None:
    runner.add(1, params, IDS)
    sampled = runner.run(Step((step(1),))).sequences[0].drawn[0]
    assert sampled.token_id in (allowed or {int(runner.logits(list(IDS))[-1].argmax())})


def test_the_repetition_penalty_sees_the_prompt(runner: CpuRunner) -> None:
    best = int(runner.logits(list(IDS))[-1].argmax())
    prompt_ids = (*IDS, best)
    runner.add(1, SamplingParams(temperature=0.0, repetition_penalty=1e6), prompt_ids)
    sampled = runner.run(Step((step(1),))).sequences[0].drawn[0]
    assert sampled.token_id not in prompt_ids


@pytest.mark.parametrize(
    "broken",
    [
        {"token_ids": (96,)},
        {"token_ids": (-1,)},
        {"token_ids": ()},
        {"start": 128},
        {"block_ids": (32,)},
        {"block_ids": ()},
        {"targets": (1,)},
    ],
)
def test_a_broken_step_is_our_fault_and_harms_nothing(runner: CpuRunner, broken: dict[str, object]) -> None:
    runner.add(1, GREEDY, IDS)
    with pytest.raises(InternalError, match="the native core refused a step"):
        runner.run(Step((step(1, **broken),)))
    assert runner.run(Step((step(1),))).sequences[0].drawn


def test_forgotten_requests_cannot_sample(runner: CpuRunner) -> None:
    runner.add(1, GREEDY, IDS)
    runner.remove(1)
    runner.remove(1)
    with pytest.raises(InternalError):
        runner.run(Step((step(1),)))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("weights", "int3"),
        ("group", 48),
        ("kv_dtype", "f8"),
        ("attention", "int4"),
        ("threads", 0),
        ("threads", True),
        ("num_blocks", -1),
        ("kv_memory_bytes", 0),
        ("max_context", 0),
        ("max_context", 1.5),
        ("max_step_tokens", 1 << 30),
    ],
)
def test_options_out_of_range_are_named(name: str, value: object) -> None:
    with pytest.raises(InvalidConfig, match=f"{name} is {value!r}"):
        CpuOptions(**{name: value})  # type: ignore[arg-type]


def test_int8_attention_does_not_read_f32_keys_and_values() -> None:
    with pytest.raises(InvalidConfig, match="kv_dtype must not be 'f32'"):
        CpuOptions(attention="int8", kv_dtype="f32")


def test_prompts_attend_in_integers_only_beside_4_bit_weights_or_on_request(folder: Path) -> None:
    def logits(**options: object) -> np.ndarray:
        chosen = CpuOptions(cache=False, num_blocks=32, threads=1, **options)  # type: ignore[arg-type]
        return CpuRunner.from_folder(folder, chosen).logits(prompt(40))

    for weights, auto in (("auto", "f32"), ("q8", "f32"), ("q4", "int8")):
        exact, integers = (logits(weights=weights, attention=kind) for kind in ("f32", "int8"))
        assert not np.array_equal(exact, integers)
        assert np.std(integers - exact) < 0.1 * np.std(exact)
        assert np.array_equal(logits(weights=weights), integers if auto == "int8" else exact)


def test_a_context_beyond_the_model_is_refused_with_both_numbers(folder: Path) -> None:
    with pytest.raises(InvalidConfig, match="max_context is 129 but this model's context holds 128"):
        CpuRunner.from_folder(folder, CpuOptions(max_context=129, cache=False))


def test_kv_memory_becomes_blocks(folder: Path) -> None:
    spec = build_spec(read_config(folder), open_checkpoint(folder))
    for kv_dtype in ("f16", "f32", "int8"):
        size = KV_BLOCK * kv_bytes_per_token(spec, kv=kv_dtype)  # type: ignore[arg-type]
        chosen = CpuOptions(kv_memory_bytes=5 * size + 1, kv_dtype=kv_dtype, cache=False)  # type: ignore[arg-type]
        info = CpuRunner.from_folder(folder, chosen).info
        assert (info.num_blocks, info.max_context, info.kv_bytes_per_token) == (5, 80, size // 16)
    with pytest.raises(InvalidConfig, match="less than one block of 16 tokens"):
        CpuRunner.from_folder(folder, CpuOptions(kv_memory_bytes=10, cache=False))
    with pytest.raises(
        OutOfMemory, match=r"a context of 100 tokens needs .* MB of KV memory, but .* MB are given"
    ):
        CpuRunner.from_folder(folder, CpuOptions(num_blocks=3, max_context=100, cache=False))


def test_the_default_kv_size_is_bounded_by_memory_and_by_contexts(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert CpuRunner.from_folder(folder, CpuOptions(cache=False)).info.num_blocks == 32 * 128 // 16
    spec = build_spec(read_config(folder), open_checkpoint(folder))
    weights = make_plan(spec, Recipe("f32", 128)).num_bytes
    free = weights + 4 * 3 * KV_BLOCK * kv_bytes_per_token(spec)
    for module in (loading, memory):
        monkeypatch.setattr(module, "available_bytes", lambda: free)
    info = CpuRunner.from_folder(folder, CpuOptions(cache=False)).info
    assert (info.num_blocks, info.max_context) == (3, 48)


def test_a_model_larger_than_memory_is_refused_with_both_numbers(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "available_bytes", lambda: 50_000)
    with pytest.raises(
        OutOfMemory, match=r"the model's weights needs 0\.\d\d MB but 0\.05 MB are available; choose weights"
    ):
        CpuRunner.from_folder(folder, CpuOptions(cache=False))


def test_an_instruction_set_this_machine_lacks_is_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NARROWS_ISA", "neon")
    with pytest.raises(UnsupportedHardware, match="unset NARROWS_ISA"):
        CpuRunner.from_folder(folder, CpuOptions(cache=False))


@pytest.mark.parametrize("isa", _core.available_isas())
def test_every_instruction_set_runs(folder: Path, monkeypatch: pytest.MonkeyPatch, isa: str) -> None:
    monkeypatch.setenv("NARROWS_ISA", isa)
    runner = CpuRunner.from_folder(folder, CpuOptions(weights="q8", cache=False, num_blocks=8))
    assert runner.info.description["isa"] == isa
    assert np.isfinite(runner.logits(list(IDS))).all()


def test_available_memory_respects_cgroups(tmp_path: Path) -> None:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/meminfo").write_text("MemTotal: 9000 kB\nMemAvailable: 5000 kB\n")
    assert available_bytes(tmp_path) == 5000 * 1024
    group = tmp_path / "sys/fs/cgroup"
    group.mkdir(parents=True)
    (group / "memory.max").write_text("max\n")
    (group / "memory.current").write_text("1000000\n")
    assert available_bytes(tmp_path) == 5000 * 1024
    (group / "memory.max").write_text("3000000\n")
    assert available_bytes(tmp_path) == 2000000
    (group / "memory.stat").write_text("anon 1\ninactive_file 500000\n")
    assert available_bytes(tmp_path) == 2500000
