"""Narrows: takes a slow language model, says why, makes it lean, and serves it as a real-time stream.

The public names, each imported when first used: importing the package loads neither the core nor numpy.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from narrows.engine.local import LLM
    from narrows.engine.step import SamplingParams
    from narrows.errors import (
        CallerError,
        ContextTooLong,
        InternalError,
        InvalidConfig,
        InvalidModel,
        InvalidRequest,
        NarrowsError,
        OutOfMemory,
        Overloaded,
        RequestAborted,
        ShortError,
        UnsupportedHardware,
        UnsupportedModel,
    )

__version__ = "0.1.0"

__all__ = [
    "LLM",
    "CallerError",
    "ContextTooLong",
    "InternalError",
    "InvalidConfig",
    "InvalidModel",
    "InvalidRequest",
    "NarrowsError",
    "OutOfMemory",
    "Overloaded",
    "RequestAborted",
    "SamplingParams",
    "ShortError",
    "UnsupportedHardware",
    "UnsupportedModel",
    "__version__",
]

_HOMES = {"LLM": "narrows.engine.local", "SamplingParams": "narrows.engine.step"}


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module 'narrows' has no attribute {name!r}")
    value: object = getattr(importlib.import_module(_HOMES.get(name, "narrows.errors")), name)
    globals()[name] = value  # the next access does not come here
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
