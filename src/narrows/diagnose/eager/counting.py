"""Counts what a unit of torch's work does: FLOPs by torch's own formulas, bytes by the shapes of tensors.

In: torch, a Unit. Out: Counts by group, and the FLOPs as torch.utils.flop_counter would sum them. Views move
nothing; a gather reads only the rows it writes; an expanded tensor has no more bytes than its storage.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from types import ModuleType
from typing import Any, Final

from narrows.diagnose.eager.groups import Group, group_of, plain_name
from narrows.diagnose.eager.seen import Counts, Unit

ATTENTION_CPU: Final = "_scaled_dot_product_flash_attention_for_cpu"  # has no formula in torch's table


def count(torch: ModuleType, unit: Unit, *, is_language_model: bool) -> tuple[dict[Group, Counts], int]:
    """(by group, FLOPs with every pair of a causal attention)."""
    counter = _counter(torch, is_language_model)
    with counter:
        unit.run()
    if unit.reset is not None:
        unit.reset()
    return counter.counts, counter.dense_flops


def _counter(torch: ModuleType, is_language_model: bool) -> Any:  # noqa: ANN401
    formulas = torch.utils.flop_counter.flop_registry

    class Counter(torch.utils._python_dispatch.TorchDispatchMode):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.counts: dict[Group, Counts] = {}
            self.dense_flops = 0

        def __torch_dispatch__(self, func: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:  # noqa: ANN401
            kwargs = kwargs or {}
            if func._overloadpacket not in formulas and func is not torch.ops.prim.device.default:
                with self:  # what inference_mode leaves whole comes apart here
                    parts = func.decompose(*args, **kwargs)
                if parts is not NotImplemented:
                    return parts
            out = func(*args, **kwargs)
            self._add(func, args, kwargs, out)
            return out

        def _add(self, func: Any, args: Any, kwargs: Any, out: Any) -> None:  # noqa: ANN401
            group = group_of([str(func)], is_language_model=is_language_model)
            if group is None:
                return
            dense, flops = _flops(func, args, kwargs, out, formulas)
            read, written = _bytes(group, torch, (args, tuple(kwargs.values())), out)
            found = self.counts.get(group, Counts())
            self.counts[group] = found.plus(Counts(1, flops, read, written))
            self.dense_flops += dense

    return Counter()


def _flops(func: Any, args: Any, kwargs: Any, out: Any, formulas: Mapping[Any, Any]) -> tuple[int, int]:  # noqa: ANN401
    """(of every pair, of those that a causal mask leaves)."""
    name = plain_name(str(func)) or ""
    formula = formulas.get(func._overloadpacket)
    if formula is not None:
        dense = int(formula(*args, **kwargs, out_val=out))
    elif name == ATTENTION_CPU:
        dense = attention_flops(args[0].shape, args[1].shape, args[2].shape)
    else:
        return 0, 0
    if "scaled_dot_product" in name and _is_causal(func, args, kwargs):
        rows, keys = args[0].shape[-2], args[1].shape[-2]
        return dense, round(dense * causal_share(rows, keys))
    return dense, dense


def attention_flops(query: Sequence[int], key: Sequence[int], value: Sequence[int]) -> int:
    """Two products of [batch, heads, rows, head] with [batch, kv heads, keys, head]: every pair."""
    batch, heads, rows, width = query
    return 2 * batch * heads * rows * key[-2] * (width + value[-1])


def causal_share(rows: int, keys: int) -> float:
    """Of all pairs, those with key <= row, counted from the same start (torch's is_causal)."""
    growing = min(rows, keys)
    return (growing * (growing + 1) // 2 + (rows - growing) * keys) / (rows * keys)


def _is_causal(func: Any, args: Any, kwargs: Any) -> bool:  # noqa: ANN401
    for place, argument in enumerate(func._schema.arguments):
        if argument.name == "is_causal":
            return bool(kwargs.get("is_causal", args[place] if place < len(args) else argument.default_value))
    return False


def _bytes(group: Group, torch: ModuleType, given: Any, out: Any) -> tuple[int, int]:  # noqa: ANN401
    if group == "views":
        return 0, 0
    written = sum(tensor_bytes(tensor) for tensor in _tensors(torch, out))
    read = sum(tensor_bytes(tensor) for tensor in _tensors(torch, given))
    return (min(read, written) if group == "gather" else read), written


def tensor_bytes(tensor: Any) -> int:  # noqa: ANN401
    """Of its elements, or of its storage where it is expanded."""
    size = int(tensor.numel()) * int(tensor.element_size())
    try:
        return min(size, int(tensor.untyped_storage().nbytes()))
    except (NotImplementedError, RuntimeError):  # sparse and wrapped tensors have no storage of their own
        return size


def _tensors(torch: ModuleType, values: Any) -> Iterator[Any]:  # noqa: ANN401
    if isinstance(values, torch.Tensor):
        yield values
    elif isinstance(values, list | tuple):
        for value in values:
            yield from _tensors(torch, value)
