"""Settings for tests of a service under torch: measuring takes moments, the machine is a synthetic one."""

from __future__ import annotations

import pytest

from narrows.diagnose import run as verb
from narrows.diagnose.eager import ceilings, profiling
from narrows.diagnose.eager import observe as observing
from tests.diagnose.synthetic import machine


def measure_little(monkeypatch: pytest.MonkeyPatch) -> None:
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
