"""The present service for real: tiny models under transformers, modules of a user's, and what goes wrong."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch.utils.flop_counter import FlopCounterMode

from narrows import cli
from narrows.diagnose import run as verb
from narrows.diagnose.eager import ceilings, profiling
from narrows.diagnose.eager import observe as observing
from narrows.diagnose.eager.causal import (
    CausalModel,
    Choice,
)
from narrows.diagnose.eager.counting import count
from narrows.diagnose.eager.findings import EagerFindings
from narrows.diagnose.eager.observe import Timing, observe
from narrows.diagnose.eager.seen import Unit
from narrows.diagnose.eager.user_module import open_module
from narrows.errors import InvalidConfig
from narrows.kernels.formats import PackedFormat
from narrows.models import costs
from narrows.models.checkpoint import open_checkpoint
from narrows.models.config import read_config
from narrows.models.families import build_spec
from narrows.report import Report
from tests.diagnose.synthetic import machine, workload
from tests.models.tiny import VARIANTS, save_tiny

pytest.importorskip("narrows._core", reason="the native core is not built")
pytestmark = pytest.mark.filterwarnings("default")  # torch's own warnings are no business of ours
PROMPT, CONTEXT = 23, 31
PLAIN = ("llama", "qwen3", "gemma", "gpt2", "gpt_neox", "mistral")
SERVICE = """
import torch
class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = torch.nn.Linear(64, 32)
    def forward(self, x, scale=1.0):
        return torch.softmax(self.inner(x) * scale, -1)
net = Net().eval()
example = torch.ones(8, 64)
def with_run(): return net, lambda: net(example)
def with_tensor(): return net, example
def with_tuple(): return net, (example, 2.0)
def with_names(): return net, {"x": example, "scale": 2.0}
def alone(): return net
def no_module(): return "net", lambda: None
def no_work(): return net, 3
def three(): return net, 1, 2
def raises(): raise RuntimeError("no weights\\nmore")
def bad_work(): return net, torch.ones(3, 3)
nothing = 3
"""


class OneFormat:
    def matrix_format(self, k: int) -> PackedFormat:
        return PackedFormat("f32")

    head_format = matrix_format


@pytest.fixture(autouse=True)
def profile(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verb, "load_profile", lambda bar: machine())
    monkeypatch.setattr(observing.observe, "__kwdefaults__", {"work_s": 0.02})
    monkeypatch.setattr(profiling, "PROFILED", 1)
    for name, small in (
        ("SIDE", 64),
        ("VECTOR_BYTES", 1 << 20),
        ("TRY_S", 0.001),
        ("TURNS", 1),
        ("CALLS", 50),
    ):
        monkeypatch.setattr(ceilings, name, small)


@pytest.fixture
def service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], Any]]:
    (tmp_path / "users_service.py").write_text(SERVICE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield lambda name: open_module(torch, f"users_service:{name}")
    sys.modules.pop("users_service", None)


def model_of(folder: Path, variant: str) -> CausalModel:
    save_tiny(variant, folder)
    return CausalModel(torch, transformers, folder, variant, Choice(device="cpu"))


def linears_and_attention(folder: Path, chunk: costs.Chunk) -> tuple[int, int]:
    spec = build_spec(read_config(folder), open_checkpoint(folder))
    groups = costs.by_group(costs.step_costs(spec, OneFormat(), [chunk]))
    return sum(cost.flops for name, cost in groups.items() if name != "attention"), groups["attention"].flops


@pytest.mark.parametrize("variant", PLAIN)
def test_flops_of_a_prompt_and_a_step_are_those_of_torch_and_of_the_cost_model(
    variant: str, tmp_path: Path
) -> None:
    model = model_of(tmp_path, variant)
    for unit, chunk in (
        (model.prefill(PROMPT), costs.Chunk(PROMPT, in_prompt=True)),
        (model.decode(CONTEXT, 1), costs.Chunk(1, CONTEXT)),
    ):
        with FlopCounterMode(display=False) as counter:
            unit.run()
        if unit.reset is not None:
            unit.reset()
        counts, dense = count(torch, unit, is_language_model=True)
        matrices, attention = linears_and_attention(tmp_path, chunk)
        assert counts["matrices"].flops == pytest.approx(matrices, rel=0.01)
        assert counts["attention"].flops == pytest.approx(attention, rel=0.01)
        assert dense >= counter.get_total_flops()  # which has no formula for attention on a CPU
        products = sum(flops for op, flops in _ops(counter).items() if "bmm" not in str(op))
        assert products == pytest.approx(counts["matrices"].flops, rel=0.01)


def _ops(counter: FlopCounterMode) -> dict[Any, int]:
    return dict(counter.get_flop_counts()["Global"])


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_family_is_timed_and_its_groups_add_up(variant: str, tmp_path: Path) -> None:
    model = model_of(tmp_path, variant)
    timing = Timing(torch, machine(), model.service, lambda text: None)
    asked = workload(PROMPT, 8, 2)
    makers = [lambda: model.prefill(PROMPT), lambda: model.decode(CONTEXT, 2)]

    def made(runs: Any, near: Any, spell: Any) -> EagerFindings:
        return EagerFindings(model.service, runs, near, asked, model.kv_bytes_per_token(CONTEXT, 2), spell)

    seen = observe(timing, makers, made, work_s=0.01)
    for phase in seen.findings.phases.values():
        assert sum(op.seconds for op in phase.ops) + phase.outside_s == pytest.approx(phase.seconds, rel=1e-6)
        groups = {op.group: op for op in phase.ops}
        assert groups["matrices"].flops > 0
        assert groups["matrices"].read_bytes > 0
        assert groups["sampling"].seconds > 0
    decode = seen.findings.phases["decode"]
    assert (decode.streams, decode.tokens, decode.context) == (2, 2, CONTEXT)
    assert seen.findings.kv_bytes_per_token > 0


def test_the_verb_on_a_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_tiny("llama", tmp_path / "tiny")
    page = tmp_path / "page.html"
    words = [
        "diagnose",
        str(tmp_path / "tiny"),
        "--torch",
        "--torch-device",
        "cpu",
        "--json",
        "--html",
        str(page),
    ]
    assert cli.main(words) == 0
    made = Report.from_json(json.loads(capsys.readouterr().out))
    assert [phase.name for phase in made.phases] == ["prefill", "decode"]
    assert "transformers" in made.present
    assert made.workload.scaled < 1  # 128 positions
    assert [row.what for row in made.beside] == ["TTFT", "TPOT", "throughput", "memory"]
    assert all(row.predicted is not None and row.measured is None for row in made.beside)
    ours = [remedy for remedy in made.remedies if remedy.kind.startswith("narrows")]
    assert ours[0].command is not None
    assert all(str(remedy.command).startswith("narrows serve") for remedy in ours)
    assert "Side by side" in page.read_text()


def test_the_same_model_is_run_under_narrows_where_it_is_checked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_tiny("llama", tmp_path / "tiny")
    words = ["diagnose", str(tmp_path / "tiny"), "--torch", "--torch-device", "cpu", "--check", "--json"]
    assert cli.main([*words, "--torch-dtype", "bfloat16"]) == 0
    made = Report.from_json(json.loads(capsys.readouterr().out))
    assert made.model.weights == "bfloat16"
    assert all(row.measured is not None for row in made.beside)
    assert {check.what for check in made.checks} == {"ttft", "tpot"}


def test_a_module_of_the_users_through_the_verb(
    service: Callable[[str], Any], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["diagnose", "--torch-module", "users_service:with_run"]) == 0
    text = capsys.readouterr().out
    assert "now: a unit of work takes" in text
    assert "Net, " in text
    assert "Why" in text


@pytest.mark.parametrize("name", ["with_run", "with_tensor", "with_tuple", "with_names"])
def test_the_protocol_of_modules(service: Callable[[str], Any], name: str) -> None:
    found, unit = service(name)
    assert (found.family, found.parameters, found.is_language_model) == ("Net", 64 * 32 + 32, False)
    counts, dense = count(torch, unit, is_language_model=False)
    assert counts["matrices"].flops == dense == 2 * 8 * 64 * 32


@pytest.mark.parametrize(
    ("where", "said"),
    [
        ("users_service:alone", "a module alone"),
        ("users_service:no_module", "str where a torch.nn.Module belongs"),
        ("users_service:no_work", "int as run or inputs"),
        ("users_service:three", "returned tuple"),
        ("users_service:raises", r"raises\(\) raised RuntimeError: no weights \(users_service.py, line"),
        ("users_service:nothing", "no callable"),
        ("users_service:absent", "has no absent"),
        ("no_such_service:build", "importing no_such_service failed: ModuleNotFoundError"),
        ("users_service", "write PACKAGE.MODULE:FACTORY"),
    ],
)
def test_a_protocol_that_is_not_kept(service: Callable[[str], Any], where: str, said: str) -> None:
    with pytest.raises(InvalidConfig, match=said):
        open_module(torch, where)


def test_a_unit_of_work_that_raises_is_told(service: Callable[[str], Any]) -> None:
    _, unit = service("bad_work")
    with pytest.raises(InvalidConfig, match="a unit of work of users_service:bad_work raised RuntimeError"):
        unit.run()


def test_an_interrupt_keeps_what_was_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    save_tiny("llama", tmp_path)

    def interrupted(*arguments: Any, **named: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(observing, "profiled", interrupted)
    assert cli.main(["diagnose", str(tmp_path), "--torch", "--torch-device", "cpu", "--json", "--check"]) == 0
    made = Report.from_json(json.loads(capsys.readouterr().out))
    assert made.now.tpot_s > 0
    assert any("interrupted" in note and "prefill, decode" in note for note in made.notes)
    assert made.checks == ()
    assert all(remedy.kind.startswith("narrows") for remedy in made.remedies)


def test_products_within_a_fused_operator_are_counted() -> None:
    module = torch.nn.TransformerEncoderLayer(32, 2, 64, batch_first=True).eval()
    example = torch.randn(2, 8, 32)

    def work() -> Any:
        with torch.no_grad():
            return module(example)

    unit = Unit("unit", work)
    run = profiling.profiled(torch, unit, profiling.once(torch, unit), is_language_model=False)
    linears = 2 * 16 * (3 * 32 * 32 + 32 * 32 + 2 * 32 * 64)
    assert linears <= run.counts["matrices"].flops <= 1.5 * linears  # attention's own products beside them
