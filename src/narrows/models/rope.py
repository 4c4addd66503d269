"""Rotary frequencies from config.json: default, linear, llama3, yarn and longrope.

In: the rope parameters of old (rope_theta, rope_scaling) and new (rope_parameters) configs, and the rotated
size. Out: RopeSpec. Frequencies are computed in float64 and rounded once; a type not listed here is refused
by name.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from narrows.errors import InvalidModel, UnsupportedModel
from narrows.models.config import ModelConfig
from narrows.models.spec import RopeSpec

Frequencies = npt.NDArray[np.float64]
ROPE_TYPES: Final = ("default", "linear", "llama3", "yarn", "longrope")


@dataclass(frozen=True, slots=True)
class RopeParameters:
    """One flat set of rope parameters, whatever version of transformers wrote it."""

    config: ModelConfig
    values: Mapping[str, Any]
    theta: float

    @property
    def kind(self) -> str:
        return str(self.values.get("rope_type") or self.values.get("type") or "default")

    def number(self, name: str) -> float:
        if self.values.get(name) is None:
            raise InvalidModel(
                f"{self.config.source}: rope type {self.kind!r} needs {name}, which is missing"
            )
        return self.config.positive(f"rope {name}", self.values[name])

    def optional(self, name: str) -> float | None:
        return None if self.values.get(name) is None else self.number(name)

    def numbers(self, name: str, length: int) -> Frequencies:
        value = self.values.get(name)
        if not isinstance(value, list) or len(value) != length:
            count = len(value) if isinstance(value, list) else value
            raise InvalidModel(
                f"{self.config.source}: rope {name} must list {length} numbers, found {count!r}"
            )
        return np.array([self.config.positive(f"rope {name}", item) for item in value], dtype=np.float64)

    @property
    def original_positions(self) -> float:
        """The context of the first training: beside the rope parameters in Phi-3, else inside."""
        if self.config.has("original_max_position_embeddings"):
            return float(self.config.integer("original_max_position_embeddings"))
        return self.optional("original_max_position_embeddings") or float(
            self.config.integer("max_position_embeddings")
        )


def rope_parameters(
    config: ModelConfig,
    *,
    layer_type: str | None = None,
    theta_key: str = "rope_theta",
    theta: float = 10_000.0,
) -> RopeParameters:
    """Parameters for layers of `layer_type` (None: one set for all)."""
    values = config.mapping("rope_parameters")
    if layer_type is not None and isinstance(values.get(layer_type), dict):
        values = values[layer_type]
    elif not values and layer_type != "sliding_attention":  # only full attention is stretched in Gemma 3
        values = config.mapping("rope_scaling")
    found = values.get("rope_theta")
    if found is None:
        found = config.number(theta_key, theta)
    return RopeParameters(config, values, config.positive("rope_theta", found))


def make_rope(parameters: RopeParameters, rotated: int, *, max_context: int | None = None) -> RopeSpec:
    """The frequencies of `rotated` dimensions (an even number of the head's first ones)."""
    if rotated < 2 or rotated % 2:
        raise InvalidModel(
            f"{parameters.config.source}: rope rotates {rotated} dimensions; it must be an even number"
        )
    if parameters.theta <= 1.0:
        raise InvalidModel(
            f"{parameters.config.source}: rope_theta is {parameters.theta:g}; it must exceed 1"
        )
    base = parameters.theta ** -(np.arange(0, rotated, 2, dtype=np.float64) / rotated)
    factor = 1.0
    match parameters.kind:
        case "default":
            frequencies = base
        case "linear":
            frequencies = base / parameters.number("factor")
        case "llama3":
            frequencies = _llama3(parameters, base)
        case "yarn":
            frequencies, factor = _yarn(parameters, base, rotated)
        case "longrope" | "su":
            frequencies, factor = _longrope(parameters, base, max_context)
        case other:
            raise UnsupportedModel(
                f"{parameters.config.source}: rope type {other!r} is not supported; "
                f"supported: {', '.join(ROPE_TYPES)}"
            )
    return RopeSpec(tuple(float(f) for f in frequencies.astype(np.float32)), float(factor))


def _llama3(parameters: RopeParameters, base: Frequencies) -> Frequencies:
    """Llama 3.1: long wavelengths are divided by `factor`, short ones kept, those between blended."""
    factor = parameters.number("factor")
    low, high = parameters.number("low_freq_factor"), parameters.number("high_freq_factor")
    if high <= low:
        raise InvalidModel(
            f"{parameters.config.source}: high_freq_factor {high} must exceed low_freq_factor {low}"
        )
    turns = parameters.original_positions * base / (2.0 * math.pi)  # full turns within the original context
    blend = np.clip((turns - low) / (high - low), 0.0, 1.0)
    return (1.0 - blend) * base / factor + blend * base


def _yarn(parameters: RopeParameters, base: Frequencies, rotated: int) -> tuple[Frequencies, float]:
    """YaRN (arXiv 2309.00071): a ramp between interpolated and kept frequencies, and sharper attention."""
    original = parameters.original_positions
    stretch = parameters.optional("factor") or parameters.config.integer("max_position_embeddings") / original

    def dimension(turns: float) -> float:
        return rotated * math.log(original / (turns * 2 * math.pi)) / (2 * math.log(parameters.theta))

    low = dimension(parameters.optional("beta_fast") or 32.0)
    high = dimension(parameters.optional("beta_slow") or 1.0)
    if parameters.values.get("truncate", True):
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, rotated - 1)
    high += 0.001 if low == high else 0.0
    ramp = np.clip((np.arange(rotated // 2, dtype=np.float64) - low) / (high - low), 0.0, 1.0)
    return base / stretch * ramp + base * (1.0 - ramp), _yarn_attention(parameters, stretch)


def _yarn_attention(parameters: RopeParameters, stretch: float) -> float:
    given = parameters.optional("attention_factor")
    if given is not None:
        return given

    def magnitude(weight: float) -> float:
        return 1.0 if stretch <= 1.0 else 0.1 * weight * math.log(stretch) + 1.0

    mscale, mscale_all = parameters.optional("mscale"), parameters.optional("mscale_all_dim")
    if mscale and mscale_all:
        return magnitude(mscale) / magnitude(mscale_all)
    return magnitude(1.0)


def _longrope(
    parameters: RopeParameters, base: Frequencies, max_context: int | None
) -> tuple[Frequencies, float]:
    """LongRoPE (arXiv 2402.13753): one set of stretch factors for the original context, another beyond it.

    Keys in the KV pages keep the rotation they were stored with, so the set is chosen once for the whole
    context.
    """
    original = parameters.original_positions
    long = max_context is not None and max_context > original
    stretch = parameters.numbers("long_factor" if long else "short_factor", len(base))
    if original <= 1.0:
        raise InvalidModel(
            f"{parameters.config.source}: the original context is {original:g}; it must exceed 1"
        )
    factor = parameters.optional("factor") or parameters.config.integer("max_position_embeddings") / original
    attention = parameters.optional("attention_factor")
    if attention is None:
        attention = 1.0 if factor <= 1.0 else math.sqrt(1.0 + math.log(factor) / math.log(original))
    return base / stretch, attention
