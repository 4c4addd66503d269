"""A profile goes through JSON and comes back; whatever is wrong in it is refused by name."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import pytest

from narrows.errors import InvalidConfig
from narrows.machine.profile import MachineProfile
from tests.machine.fakes import profile


def as_json(one: MachineProfile) -> dict[str, Any]:
    data: dict[str, Any] = json.loads(json.dumps(one.to_json()))
    return data


@pytest.mark.parametrize(
    "one",
    [
        profile(),
        profile(disk=None, gpus=(), links=(), caches=(), dram_gb_per_s=(), dram_threads=()),
        profile(cores=replace(profile().cores, quota=None, shared_cores=None, shared_cores_ratio=None)),
        profile(disk=replace(profile().disk, gb_per_s=None)),
        profile(disturbance=replace(profile().disturbance, steal_share=None, others_share=None)),
    ],
)
def test_a_profile_comes_back_from_json_as_it_was(one: MachineProfile) -> None:
    assert MachineProfile.from_json(as_json(one)) == one


def test_fields_with_defaults_may_be_missing_and_whole_numbers_are_numbers() -> None:
    data = as_json(profile())
    del data["unknown"], data["dram_threads"], data["disturbance"]["others_share"], data["disk"]["method"]
    data["dram_gb_per_s"] = [20, 30]
    one = MachineProfile.from_json(data)
    assert one.dram_gb_per_s == (20.0, 30.0)
    assert (one.unknown, one.dram_threads, one.disk.method) == ({}, (), "")


@pytest.mark.parametrize(
    ("path", "value", "named"),
    [
        (("version",), 99, "version 99"),
        (("seconds",), "long", "profile.seconds"),
        (("seconds",), math.nan, "finite"),
        (("seconds",), -1.0, "not negative"),
        (("memory_bytes",), 0, "above zero"),
        (("memory_bytes",), 1.5, "an integer"),
        (("memory_bytes",), True, "an integer"),
        (("cores",), [], "profile.cores"),
        (("cores", "online"), None, "profile.cores.online"),
        (("cores", "isas"), "avx2", "a list"),
        (("cores", "shared_cores"), 1, "true or false"),
        (("cores", "colour"), "red", "no field 'colour'"),
        (("dram_gb_per_s",), [20.0, 0.0], r"dram_gb_per_s\[1\]"),
        (("dram_gb_per_s",), [math.inf, 1.0], r"dram_gb_per_s\[0\]"),
        (("dram_threads",), [1], "one count for each"),
        (("peaks", 0, "int8_gmac_per_s"), 0, r"peaks\[0\].int8_gmac_per_s"),
        (("gpus", 0, "tflop_per_s"), {"fp32": "fast"}, "tflop_per_s.fp32"),
        (("unknown",), {"disk": 3}, "unknown.disk"),
        (("unknown",), ["disk"], "an object"),
    ],
)
def test_wrong_fields_are_refused_by_name(path: tuple[Any, ...], value: object, named: str) -> None:
    data: Any = as_json(profile())
    place = data
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    with pytest.raises(InvalidConfig, match=named):
        MachineProfile.from_json(data)


def test_missing_fields_and_other_things_than_objects_are_refused() -> None:
    for name in ("cores", "fingerprint", "disturbance"):
        data = as_json(profile())
        del data[name]
        with pytest.raises(InvalidConfig, match=f"lacks the field '{name}'"):
            MachineProfile.from_json(data)
    for nothing in (None, [], "profile", 3):
        with pytest.raises(InvalidConfig, match="version"):
            MachineProfile.from_json(nothing)


def test_dram_with_answers_only_what_was_measured() -> None:
    one = profile(dram_gb_per_s=(20.0, 35.0, 60.0, 90.0, 110.0), dram_threads=(1, 2, 4, 8, 12))
    assert [one.dram_with(n) for n in (0, 1, 3, 11, 12, 64)] == [
        None,
        (1, 20.0),
        (2, 35.0),
        (8, 90.0),
        (12, 110.0),
        (12, 110.0),
    ]
    assert profile(dram_threads=()).dram_with(2) == (2, 30.0)
    assert profile(dram_gb_per_s=(), dram_threads=()).dram_with(2) is None
