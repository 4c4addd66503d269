"""Names of operators and events of a profile as groups; the pairs that a causal mask leaves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from narrows.diagnose.eager.counting import attention_flops, causal_share
from narrows.diagnose.eager.groups import group_of, is_launch, is_synchronising
from narrows.diagnose.eager.profiling import table


@pytest.mark.parametrize(
    ("names", "group"),
    [
        (["aten::addmm", "aten::linear"], "matrices"),
        (["aten.mm.default"], "matrices"),
        (["aten::copy_", "aten::_to_copy", "aten::to"], "conversion"),
        (["aten::copy_", "aten::clone", "aten::contiguous"], "copies"),
        (["aten::cat"], "copies"),
        (["aten::_scaled_dot_product_flash_attention_for_cpu"], "attention"),
        (["aten::bmm", "aten::matmul"], "attention"),
        (["aten::embedding"], "gather"),
        (["aten::argmax", "narrows.sampling"], "sampling"),
        (["aten::as_strided", "aten::t"], "views"),
        (["aten::add_"], "elementwise"),
        (["aten::t"], "views"),
        (["cudaLaunchKernel", "aten::mm"], None),
        (["my range"], None),
        (["narrows.sampling"], None),
    ],
)
def test_operators_find_their_group(names: list[str], group: str | None) -> None:
    assert group_of(names, is_language_model=True) == group


def test_products_of_other_modules_are_products() -> None:
    assert group_of(["aten::bmm"], is_language_model=False) == "matrices"
    assert group_of(["aten::softmax"], is_language_model=False) == "elementwise"
    assert is_launch("cudaLaunchKernel")
    assert is_synchronising("aten::item")
    assert not is_synchronising("aten::add")


@pytest.mark.parametrize(("rows", "keys"), [(1, 1), (1, 9), (9, 9), (5, 9), (9, 5)])
def test_a_causal_mask_leaves_so_many_pairs(rows: int, keys: int) -> None:
    seen = sum(1 for row in range(rows) for key in range(keys) if key <= row)
    assert causal_share(rows, keys) * rows * keys == pytest.approx(seen)
    assert attention_flops((2, 4, rows, 8), (2, 2, keys, 8), (2, 2, keys, 8)) == 2 * 2 * 4 * rows * keys * 16


@dataclass
class Event:
    """As much of torch.profiler's FunctionEvent as is read."""

    name: str
    self_cpu_time_total: float = 0.0
    self_device_time_total: float = 0.0
    thread: int = 1
    cpu_parent: Any = None


def test_a_table_of_events() -> None:
    linear = Event("aten::linear", 10)
    outer = Event("my range", 500)
    events = [
        outer,
        linear,
        Event("aten::mm", 90, 70, cpu_parent=linear),
        Event("aten::add", 20, 5, cpu_parent=outer),
    ]
    other = Event("aten::mm", 60, thread=2)
    made = table([*events, other], 2e-4, is_language_model=True)
    assert made.seconds["matrices"] == pytest.approx(1e-4)  # of the thread that called most
    assert made.seconds["elementwise"] == pytest.approx(2e-5)
    assert (made.calls, made.threads_seen, made.busy_s) == (3, 2, None)
    on_gpu = table(
        [*events, Event("cudaStreamSynchronize"), Event("cudaLaunchKernel")],
        2e-4,
        is_language_model=True,
        is_cuda=True,
    )
    assert on_gpu.busy_s == pytest.approx(7.5e-5)
    assert (on_gpu.syncs, on_gpu.launches) == (1, 1)
