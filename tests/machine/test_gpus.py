"""GPUs, with a torch that has two of them: figures come out as they were put in."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from narrows.machine import gpus
from narrows.machine.gpus import GpuBudget, measure_gpus
from tests.machine.fake_torch import FakeGpu, FakeTorch
from tests.machine.fakes import write

PEAKS = {"fp32": 60.0, "tf32": 400.0, "bf16": 800.0, "fp16": 800.0, "int8": 1600.0}


@pytest.fixture
def torch(monkeypatch: pytest.MonkeyPatch) -> FakeTorch:
    """Without GPUs yet; time is its own."""
    fake = FakeTorch([])
    monkeypatch.setitem(sys.modules, "torch", fake.module())
    monkeypatch.setattr(gpus.time, "perf_counter", fake.now_s)
    return fake


def test_two_gpus_are_measured_each_by_itself(torch: FakeTorch, tmp_path: Path) -> None:
    torch.gpus += [
        FakeGpu("Big", 80 << 30, 3000.0, PEAKS),
        FakeGpu("Old", 16 << 30, 900.0, {"fp32": 15.0, "fp16": 120.0}, capability=(7, 0)),
    ]
    write(tmp_path, {"dev/nvidia0": "", "dev/nvidia1": ""})
    found, unknown = measure_gpus(asked=False, root=tmp_path)
    assert [(gpu.name, gpu.memory_bytes) for gpu in found] == [("Big", 80 << 30), ("Old", 16 << 30)]
    assert [gpu.gb_per_s for gpu in found] == [pytest.approx(3000.0), pytest.approx(900.0)]
    assert found[0].tflop_per_s == pytest.approx(PEAKS)
    assert found[1].tflop_per_s == pytest.approx({"fp32": 15.0, "fp16": 120.0})
    assert unknown == {
        "gpu 1, tf32": "its matrix units have no such format",
        "gpu 1, bf16": "its matrix units have no such format",
        "gpu 1, int8": "no product of int8",
    }
    assert torch.precision == "highest", "the setting of before is back"


def test_a_gpu_that_does_not_work_leaves_the_others(torch: FakeTorch) -> None:
    torch.gpus.append(FakeGpu("Taken", 8 << 30, 1.0, PEAKS, broken="out of memory"))
    torch.gpus.append(FakeGpu("Free", 8 << 30, 500.0, PEAKS))
    found, unknown = measure_gpus(asked=True)
    assert [gpu.name for gpu in found] == ["Free"]
    assert unknown == {"gpu 0": "out of memory"}


def test_a_torch_that_sees_no_gpu_says_so(torch: FakeTorch) -> None:
    found, unknown = measure_gpus(asked=True)
    assert found == ()
    assert "torch 9.9 sees no GPU" in unknown["gpus"]


def test_without_torch_a_gpu_is_unknown(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)  # importing it fails
    write(tmp_path, {"dev/nvidia0": ""})
    found, unknown = measure_gpus(asked=False, root=tmp_path)
    assert found == ()
    assert "pip install torch" in unknown["gpus"]


def test_torch_is_not_imported_where_there_is_no_gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    assert measure_gpus(asked=False, root=tmp_path) == ((), {})


def test_the_real_torch_has_every_function_that_is_called() -> None:
    torch = pytest.importorskip("torch")
    budget = GpuBudget(copy_bytes=1 << 16, side=64, try_s=1e-4, tries=1)
    before = torch.get_float32_matmul_precision()
    assert gpus.copy_gb_per_s(torch, "cpu", budget.copy_bytes, lambda: None, budget) > 0
    for name in PEAKS:
        assert gpus.matrix_tflop_per_s(torch, "cpu", name, lambda: None, budget) > 0
    assert torch.get_float32_matmul_precision() == before


@pytest.mark.gpu
def test_a_real_gpu_is_measured() -> None:
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("no GPU here")
    found, _ = measure_gpus(asked=True)
    assert found
    assert all(gpu.gb_per_s > 10 and gpu.tflop_per_s["fp32"] > 0.1 for gpu in found)
