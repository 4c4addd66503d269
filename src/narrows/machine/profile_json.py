"""A MachineProfile out of JSON, every field checked: what a file says is never trusted.

In: what json.loads gave. Out: the profile, or InvalidConfig with the path of the first wrong field.
"""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Mapping

from narrows.errors import InvalidConfig
from narrows.machine.profile import PROFILE_VERSION, MachineProfile

# Rates and sizes that are measured: zero or less is no measurement.
POSITIVE = (
    "gb_per_s",
    "gmac_per_s",
    "size_bytes",
    "memory_bytes",
    "dram_threads",
    "threads",
    "online",
    "affinity",
)


def profile_from_json(data: object) -> MachineProfile:
    """Raises InvalidConfig; another version than PROFILE_VERSION is refused, too."""
    version = data.get("version") if isinstance(data, Mapping) else None
    if version != PROFILE_VERSION:
        raise InvalidConfig(
            f"a machine profile of version {version!r}, where this Narrows reads {PROFILE_VERSION}; measure "
            "anew with 'narrows machine --fresh'"
        )
    profile = _value(MachineProfile, data, "profile")
    assert isinstance(profile, MachineProfile)
    if len(profile.dram_threads) not in (0, len(profile.dram_gb_per_s)):
        raise _wrong("profile.dram_threads", profile.dram_threads, "one count for each of dram_gb_per_s")
    return profile


def _wrong(path: str, found: object, wanted: str) -> InvalidConfig:
    return InvalidConfig(f"{path} is {found!r}; it must be {wanted}")


def _value(kind: object, data: object, path: str) -> object:
    """`data` as `kind`: a dataclass, tuple[T, ...], Mapping[str, T], T | None, or a plain type."""
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        return _record(kind, data, path)
    origin, parts = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        inner = next(part for part in parts if part is not type(None))
        return None if data is None else _value(inner, data, path)
    if origin is tuple:
        if not isinstance(data, list | tuple):
            raise _wrong(path, data, "a list")
        return tuple(_value(parts[0], item, f"{path}[{i}]") for i, item in enumerate(data))
    if origin is Mapping:
        if not isinstance(data, Mapping) or not all(isinstance(key, str) for key in data):
            raise _wrong(path, data, "an object")
        return {key: _value(parts[1], item, f"{path}.{key}") for key, item in data.items()}
    assert isinstance(kind, type)
    return _plain(kind, data, path)


def _record(kind: type, data: object, path: str) -> object:
    if not isinstance(data, Mapping):
        raise _wrong(path, data, "an object")
    fields = {field.name: field for field in dataclasses.fields(kind)}
    unknown = sorted(set(data) - set(fields))
    if unknown:
        raise InvalidConfig(f"{path} has no field {unknown[0]!r}")
    for name, field in fields.items():
        needed = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if needed and name not in data:
            raise InvalidConfig(f"{path} lacks the field {name!r}")
    hints = typing.get_type_hints(kind)
    return kind(**{name: _value(hints[name], data[name], f"{path}.{name}") for name in data})


def _plain(kind: type, data: object, path: str) -> object:
    if kind is float and isinstance(data, int) and not isinstance(data, bool):
        data = float(data)
    if type(data) is not kind:  # a bool is no int
        raise _wrong(
            path, data, {str: "a text", int: "an integer", bool: "true or false"}.get(kind, "a number")
        )
    if isinstance(data, float | int) and not isinstance(data, bool):
        name = path.rpartition(".")[2].partition("[")[0]
        if not math.isfinite(data) or data < 0:
            raise _wrong(path, data, "finite and not negative")
        if data == 0 and name.endswith(POSITIVE):
            raise _wrong(path, data, "above zero")
    return data
