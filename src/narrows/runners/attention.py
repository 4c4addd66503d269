"""Whether the prompts of a model may attend in 8-bit integers.

In: the spec, the packed weights, the options. Out: yes or no, and the reason in words.
Keys get one scale per token and head. A channel far larger than its neighbours would take the scale for
itself and leave the others a few steps; such channels come from key biases (Qwen 2) and from the weights of
a norm over the keys.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt

from narrows.models.spec import NormSpec, TensorSlice, TransformerSpec
from narrows.runners.options import CpuOptions

MAX_OUTLIER = (
    6.0  # largest over root mean square of a key norm's weights; then a code is off by 4 % of the others
)


class Vectors(Protocol):
    """Where the float vectors of a model come from: PackedWeights."""

    def floats(self, parts: tuple[TensorSlice, ...]) -> npt.NDArray[np.float32]: ...


def int8_attention(
    spec: TransformerSpec, weights: str, vectors: Vectors, options: CpuOptions
) -> tuple[bool, str]:
    """(whether, why). `auto` needs 4-bit weights: beside 8-bit ones the rounding of attention shows.

    Measured by benchmarks/attention_quality.py.
    """
    if options.attention != "auto":
        return options.attention == "int8", f"{options.attention}, as asked for"
    if weights != "q4":
        return False, f"f32, beside {weights} weights"
    if options.kv_dtype != "f16":
        return False, f"f32, over {options.kv_dtype} keys"
    for index, layer in enumerate(spec.layers):
        if layer.qkv.biases:
            return False, f"f32: layer {index} has key biases"
        if layer.k_norm is not None and (ratio := _outlier(layer.k_norm, vectors)) > MAX_OUTLIER:
            return False, f"f32: a key norm weight of layer {index} is {ratio:.0f} times its neighbours"
    return True, "int8 for prompts, f32 for answers"


def _outlier(norm: NormSpec, vectors: Vectors) -> float:
    weight = np.abs(vectors.floats((TensorSlice(norm.weight),)).astype(np.float64))
    mean_square = float(np.square(weight).mean())
    return float(weight.max()) / mean_square**0.5 if mean_square > 0 else 0.0
