"""A torch with GPUs made of figures: an operation takes as long as its bytes need, on a clock of its own."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import ModuleType, SimpleNamespace


@dataclass
class FakeGpu:
    name: str
    total_memory: int
    gb_per_s: float
    tflop_per_s: dict[str, float]
    capability: tuple[int, int] = (9, 0)
    broken: str = ""


@dataclass
class FakeTensor:
    torch: FakeTorch
    gpu: FakeGpu
    shape: tuple[int, ...]
    dtype: str

    @property
    def num_bytes(self) -> int:
        count = 1
        for n in self.shape:
            count *= n
        return count * {"int8": 1, "uint8": 1, "bf16": 2, "fp16": 2, "fp32": 4}[self.dtype]

    def t(self) -> FakeTensor:
        return self

    def copy_(self, other: FakeTensor) -> None:
        self.torch.clock_s += 2 * other.num_bytes / (self.gpu.gb_per_s * 1e9)


@dataclass
class FakeTorch:
    gpus: list[FakeGpu]
    clock_s: float = 0.0
    precision: str = "highest"
    precisions_seen: list[str] = field(default_factory=list)

    def now_s(self) -> float:
        return self.clock_s

    def module(self) -> ModuleType:
        torch = ModuleType("torch")
        torch.__version__ = "9.9"
        torch.uint8, torch.int8, torch.float32 = "uint8", "int8", "fp32"
        torch.bfloat16, torch.float16 = "bf16", "fp16"
        torch.zeros = torch.ones = self._make
        torch.empty_like = lambda tensor: tensor
        torch.matmul = self._matmul
        torch._int_mm = self._matmul
        torch.get_float32_matmul_precision = lambda: self.precision
        torch.set_float32_matmul_precision = self._set_precision
        torch.cuda = SimpleNamespace(
            is_available=lambda: bool(self.gpus),
            device_count=lambda: len(self.gpus),
            get_device_properties=lambda i: self.gpus[i],
            get_device_capability=lambda i: self.gpus[i].capability,
            synchronize=lambda i: None,
        )
        return torch

    def _make(self, shape: int | tuple[int, ...], *, dtype: str, device: str) -> FakeTensor:
        gpu = self.gpus[int(device.removeprefix("cuda:"))]
        if gpu.broken:
            raise RuntimeError(gpu.broken)
        return FakeTensor(self, gpu, (shape,) if isinstance(shape, int) else shape, dtype)

    def _matmul(self, a: FakeTensor, b: FakeTensor) -> None:
        name = "tf32" if a.dtype == "fp32" and self.precision == "high" else a.dtype
        if name not in a.gpu.tflop_per_s:
            raise RuntimeError(f"no product of {name}\nmore lines")
        self.clock_s += 2 * a.shape[0] * a.shape[1] * b.shape[1] / (a.gpu.tflop_per_s[name] * 1e12)

    def _set_precision(self, precision: str) -> None:
        self.precision = precision
        self.precisions_seen.append(precision)
