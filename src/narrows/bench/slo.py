"""Service level objectives: what a good answer takes at most. In: "ttft=500ms,tpot=50ms". Out: limits in
seconds.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from narrows.errors import InvalidConfig

SLO_NAMES = ("ttft", "tpot", "e2e")
UNITS_S = {"us": 1e-6, "ms": 1e-3, "s": 1.0}


def parse_slo(text: str) -> dict[str, float]:
    """Raises InvalidConfig; a number without a unit is refused, for tools differ in what they take it for."""
    limits: dict[str, float] = {}
    for part in text.split(","):
        name, _, value = (word.strip() for word in part.partition("="))
        if name not in SLO_NAMES or name in limits:
            raise InvalidConfig(
                f"--slo {text!r}: give each of {', '.join(SLO_NAMES)} at most once, like ttft=500ms"
            )
        limits[name] = parse_duration(value, f"--slo {name}")
    return limits


def parse_duration(text: str, option: str) -> float:
    """ "500ms" → 0.5. Raises InvalidConfig."""
    for unit, scale in UNITS_S.items():
        number = text.removesuffix(unit)
        if number != text and number[-1:].isdigit():
            try:
                value = float(number) * scale
            except ValueError:
                break
            if 0 < value < math.inf:
                return value
    raise InvalidConfig(f"{option} {text!r} should be a time with its unit, like 500ms or 2s")


def meets(values: Mapping[str, float | None], limits: Mapping[str, float]) -> bool:
    """Whether all limits hold. A figure that an answer does not have (TPOT of one token) cannot break its
    limit.
    """
    return all((value := values.get(name)) is None or value <= limit for name, limit in limits.items())
