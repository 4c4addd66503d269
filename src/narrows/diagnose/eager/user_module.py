"""A torch module of the user's, timed as it stands.

Protocol: PACKAGE.MODULE:FACTORY names a callable without arguments that returns a pair:
- (module, run): `module` a torch.nn.Module, `run` a callable without arguments that does one unit of work
  (a request, a batch, a step) with it; or
- (module, inputs): example inputs; a unit is module(*inputs) for a tuple or list, module(**inputs) for a
  mapping, module(inputs) for a tensor, without gradients.

The current folder is importable. Threads, dtype and device are whatever the factory leaves behind.
"""

from __future__ import annotations

import importlib
import re
import sys
import traceback
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from narrows.diagnose.eager.causal import threads_of
from narrows.diagnose.eager.seen import Service, Unit
from narrows.errors import InvalidConfig

_NAME: Final = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")
PROTOCOL: Final = "it must return (module, run) or (module, inputs): see `narrows diagnose` in the docs"


def open_module(torch: ModuleType, where: str) -> tuple[Service, Unit]:
    """Raises InvalidConfig saying what of the protocol was not kept."""
    found = _called(where, _factory(where))
    if isinstance(found, torch.nn.Module):
        raise InvalidConfig(f"{where} returned a module alone; {PROTOCOL}")
    if not isinstance(found, tuple) or len(found) != 2:
        raise InvalidConfig(f"{where} returned {type(found).__name__}; {PROTOCOL}")
    module, work = found
    if not isinstance(module, torch.nn.Module):
        raise InvalidConfig(
            f"{where} returned {type(module).__name__} where a torch.nn.Module belongs; {PROTOCOL}"
        )
    run = _guarded(where, _run_of(torch, where, module, work))
    return _service(torch, where, module), Unit("unit", run)


def _factory(where: str) -> Callable[[], object]:
    if not _NAME.fullmatch(where):
        raise InvalidConfig(
            f"--torch-module is {where!r}; write PACKAGE.MODULE:FACTORY, such as service:build"
        )
    module_name, _, attribute = where.partition(":")
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.insert(0, here)
    try:
        found: Any = importlib.import_module(module_name)
    except Exception as error:  # whatever the user's module raises when imported
        raise InvalidConfig(f"--torch-module: importing {module_name} failed: {_last(error)}") from error
    for part in attribute.split("."):
        if not hasattr(found, part):
            raise InvalidConfig(f"--torch-module: {module_name} has no {attribute}")
        found = getattr(found, part)
    if not callable(found):
        raise InvalidConfig(f"--torch-module: {where} is {type(found).__name__}, no callable; {PROTOCOL}")
    return found  # type: ignore[no-any-return]


def _called(where: str, factory: Callable[[], object]) -> object:
    try:
        return factory()
    except Exception as error:  # whatever the user's factory raises
        raise InvalidConfig(f"--torch-module: {where}() raised {_last(error)}") from error


def _run_of(torch: ModuleType, where: str, module: Any, work: Any) -> Callable[[], object]:  # noqa: ANN401
    if isinstance(work, torch.Tensor):
        call: Callable[[], object] = lambda: module(work)  # noqa: E731
    elif isinstance(work, Mapping):
        call = lambda: module(**work)  # noqa: E731
    elif isinstance(work, list | tuple):
        call = lambda: module(*work)  # noqa: E731
    elif callable(work):
        return work  # type: ignore[no-any-return]
    else:
        raise InvalidConfig(f"{where} returned {type(work).__name__} as run or inputs; {PROTOCOL}")

    def run() -> object:
        with torch.no_grad():
            return call()

    return run


def _guarded(where: str, run: Callable[[], object]) -> Callable[[], object]:
    def guarded() -> object:
        try:
            return run()
        except Exception as error:  # whatever the user's unit of work raises
            raise InvalidConfig(f"--torch-module: a unit of work of {where} raised {_last(error)}") from error

    return guarded


def _last(error: Exception) -> str:
    """Its class, its first line, and the user's line that it came from."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if "importlib" not in frame.filename and "narrows" not in frame.filename]
    at = f" ({Path(own[-1].filename).name}, line {own[-1].lineno})" if own else ""
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}{at}"


def _service(torch: ModuleType, where: str, module: Any) -> Service:  # noqa: ANN401
    parameters = list(module.parameters())
    tensors = [*parameters, *module.buffers()]
    kinds: Counter[str] = Counter()
    for tensor in tensors:
        kinds[str(tensor.dtype).removeprefix("torch.")] += tensor.numel()
    dtype = kinds.most_common(1)[0][0] if kinds else "float32"
    is_cuda = any(tensor.device.type == "cuda" for tensor in tensors)
    threads = threads_of(torch)
    notes = (
        () if not module.training else ("the module is in training mode: dropout and statistics are at work",)
    )
    device = torch.cuda.get_device_name() if is_cuda else "the CPU"
    return Service(
        name=where,
        family=type(module).__name__,
        words=f"a module of yours on torch {torch.__version__}, {dtype}, on {device}; {threads.words()}",
        dtype=dtype,
        device="cuda" if is_cuda else "cpu",
        parameters=sum(parameter.numel() for parameter in parameters),
        weight_bytes=sum(tensor.numel() * tensor.element_size() for tensor in tensors),
        threads=threads,
        is_language_model=False,
        notes=notes,
    )
