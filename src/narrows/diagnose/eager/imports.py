"""torch and transformers, imported where a user asked for them: the only module of diagnose/ that does.

Everything else here takes them as arguments, so that the rest of `narrows diagnose` starts without them and
the arithmetic can be tested without them.
"""

from __future__ import annotations

import importlib
import os
from types import ModuleType
from typing import Final

from narrows.errors import InvalidConfig

LEAST_TORCH: Final = (2, 4)  # earlier profilers name the time of devices otherwise
INSTALL: Final = "pip install 'narrows[torch]' (or torch and transformers) into this environment"


def torch_modules() -> ModuleType:
    """torch with the parts that a diagnosis needs; InvalidConfig says what to install."""
    os.environ.setdefault("KINETO_LOG_LEVEL", "6")  # else every profile writes its start and stop to stderr
    torch = _module("torch", "--torch and --torch-module time a model that torch runs")
    version = tuple(int(part) for part in torch.__version__.split("+")[0].split(".")[:2] if part.isdigit())
    if version < LEAST_TORCH:
        raise InvalidConfig(f"torch {torch.__version__} is too old to be profiled here; {INSTALL}")
    for name in ("torch.profiler", "torch.utils._python_dispatch", "torch.utils.flop_counter"):
        _module(name, "profiling needs all of torch")
    return torch


def transformers_module() -> ModuleType:
    return _module("transformers", "--torch times the model as transformers runs it")


def _module(name: str, why: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise InvalidConfig(f"{why}, but {name} cannot be imported ({error}); {INSTALL}") from error
    except (OSError, RuntimeError) as error:  # a broken shared library, or a half-installed package
        raise InvalidConfig(f"{name} is installed but does not start ({error}); reinstall it") from error
