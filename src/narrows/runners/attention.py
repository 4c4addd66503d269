"""How each layer keeps keys and values, and whether its prompts attend in 8-bit integers.

In: the spec, the kind of weights, the weights of the norms over keys, the options. Out: a LayerAttention per
layer, and the reason in words.
Keys get one 8-bit scale per token and head. A channel far larger than its neighbours would take the scale
for itself and leave the others a few steps; such channels come from key biases (Qwen 2) and from the weights
of a norm over the keys. Layers that have them keep 16 bits; the others need not.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from narrows.kernels.formats import KvKind
from narrows.models.checkpoint import Checkpoint, widen
from narrows.models.spec import LayerSpec, NormSpec, TensorSlice, TransformerSpec
from narrows.runners.options import CpuOptions

MAX_OUTLIER: Final = (
    6.0  # largest over root mean square of a key norm's weights; then a code is off by 4 % of the others
)
NormWeights = Callable[[NormSpec], npt.NDArray[np.float32]]


@dataclass(frozen=True, slots=True)
class LayerAttention:
    kv: KvKind
    int8_prompts: bool  # rows of prompts attend in integers; over int8 keys the rows of answers lose no more


def plan_attention(
    spec: TransformerSpec, weights: str, norm_weights: NormWeights, options: CpuOptions
) -> tuple[tuple[LayerAttention, ...], dict[str, str]]:
    """What each layer does, and two facts for a description: "attention" and "kv".

    `auto` needs 4-bit weights: beside 8-bit ones the rounding of keys and values shows. Measured by
    benchmarks/attention_quality.py.
    """
    doubts = tuple(_doubt(index, layer, norm_weights) for index, layer in enumerate(spec.layers))
    layers = tuple(_choose(weights, doubt, options) for doubt in doubts)
    first_doubt = next((doubt for doubt in doubts if doubt is not None), None)
    attention = _attention_words(layers, weights, first_doubt, options)
    return layers, {"attention": attention, "kv": _kv_words(layers, first_doubt, options)}


def checkpoint_norms(checkpoint: Checkpoint) -> NormWeights:
    """The weights of a norm as the model multiplies with them."""

    def read(norm: NormSpec) -> npt.NDArray[np.float32]:
        return widen(checkpoint.take(TensorSlice(norm.weight))) + np.float32(norm.add_one)

    return read


def _choose(weights: str, doubt: str | None, options: CpuOptions) -> LayerAttention:
    bears_it = weights == "q4" and doubt is None
    automatic: KvKind = "int8" if bears_it else "f16"
    kv = automatic if options.kv_dtype == "auto" else options.kv_dtype
    in_integers = options.attention == "int8" or (
        options.attention == "auto" and bears_it and options.kv_dtype != "f32"
    )
    return LayerAttention(kv, in_integers)


def _doubt(index: int, layer: LayerSpec, norm_weights: NormWeights) -> str | None:
    """Why 8 bits may not do for the keys of a layer."""
    if layer.qkv.biases:
        return f"layer {index} has key biases"
    if layer.k_norm is not None and (ratio := _outlier(norm_weights(layer.k_norm))) > MAX_OUTLIER:
        return f"a key norm weight of layer {index} is {ratio:.0f} times its neighbours"
    return None


def _outlier(weight: npt.NDArray[np.float32]) -> float:
    magnitudes = np.abs(weight.astype(np.float64))
    mean_square = float(np.square(magnitudes).mean())
    return float(magnitudes.max()) / mean_square**0.5 if mean_square > 0 else 0.0


def _attention_words(
    layers: tuple[LayerAttention, ...], weights: str, doubt: str | None, options: CpuOptions
) -> str:
    if options.attention != "auto":
        return f"{options.attention}, as asked for"
    if options.kv_dtype == "f32":
        return "f32, over f32 keys"
    if weights != "q4":
        return f"f32, beside {weights} weights"
    count = sum(layer.int8_prompts for layer in layers)
    if count == len(layers):
        return "int8 for prompts, f32 for answers"
    return f"f32: {doubt}" if count == 0 else f"int8 for prompts in {count} of {len(layers)} layers: {doubt}"


def _kv_words(layers: tuple[LayerAttention, ...], doubt: str | None, options: CpuOptions) -> str:
    if options.kv_dtype != "auto":
        return options.kv_dtype
    count = sum(layer.kv == "int8" for layer in layers)
    if count in (0, len(layers)):
        return layers[0].kv if layers else "f16"
    return f"int8 in {count} of {len(layers)} layers, else f16: {doubt}"
