"""Scales and zero points of P4: the core chooses what its numpy oracle does, never worse than rounding."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from narrows import _core
from narrows.kernels import reference
from narrows.kernels.formats import PackedFormat, PackedShape
from narrows.kernels.p4_coding import code_groups
from narrows.kernels.packing import pack_matrix

POOL = _core.ThreadPool(2)
P4 = [PackedFormat("p4", group, zero) for group in (32, 64, 128) for zero in (False, True)]


def packed_values(weights: np.ndarray, form: PackedFormat) -> np.ndarray:
    """What the core's bytes mean, [n, k]."""
    shape = PackedShape(form, *weights.shape)
    room = np.zeros(shape.num_bytes + 64, dtype=np.uint8)
    out = room[-room.ctypes.data % 64 :][: shape.num_bytes]
    pack_matrix([weights], shape, out=out, interleave=False, name="w", pool=POOL)
    return reference.unpack(out, shape)


def in_groups(weights: np.ndarray, group: int) -> np.ndarray:
    return np.pad(weights, ((0, 0), (0, -weights.shape[1] % group))).reshape(-1, group)


def oracle_values(weights: np.ndarray, form: PackedFormat, *, search: bool = True) -> np.ndarray:
    n, k = weights.shape
    coded = code_groups(in_groups(weights, form.group), has_zero=form.has_zero, search=search)
    assert coded.codes.min() >= 0
    assert coded.codes.max() <= 15
    return coded.values.reshape(n, -1)[:, :k]


def squared_errors(weights: np.ndarray, values: np.ndarray, group: int) -> np.ndarray:
    """Of every group."""
    return np.square(in_groups(weights.astype(np.float64) - values, group)).sum(axis=1)


def drawn(kind: str, n: int = 35, k: int = 333) -> np.ndarray:
    rng = np.random.default_rng(7)
    normal = rng.standard_normal((n, k)).astype(np.float32)
    match kind:
        case "normal":
            return normal
        case "heavy tails":
            return rng.standard_t(2, (n, k)).astype(np.float32)
        case "one outlier a group":
            normal[:, ::32] *= 50
            return normal
        case "one sign":
            return np.abs(normal) + np.float32(0.5)
        case "constant rows":
            return np.repeat(normal[:, :1], k, axis=1)
        case "zeros":
            return np.zeros((n, k), np.float32)
        case "denormals":
            return (normal * 1e-40).astype(np.float32)
        case "at the end of f16":
            return (normal * np.geomspace(1e-9, 1e38, k)).astype(np.float32)
        case "a 4-bit grid":
            return (rng.integers(-8, 8, (n, k)) * 0.25).astype(np.float32)
    raise ValueError(kind)


KINDS = (
    "normal",
    "heavy tails",
    "one outlier a group",
    "one sign",
    "constant rows",
    "zeros",
    "denormals",
    "at the end of f16",
    "a 4-bit grid",
)


@pytest.mark.parametrize("form", P4, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_the_core_chooses_the_oracle_s_bits(form: PackedFormat, kind: str) -> None:
    weights = drawn(kind)
    np.testing.assert_array_equal(packed_values(weights, form), oracle_values(weights, form))


@pytest.mark.parametrize("form", P4, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_no_group_is_worse_than_rounding_to_nearest(form: PackedFormat, kind: str) -> None:
    weights = drawn(kind)
    found = squared_errors(weights, packed_values(weights, form), form.group)
    rounded = squared_errors(weights, oracle_values(weights, form, search=False), form.group)
    assert (found <= rounded * (1 + 1e-5)).all()  # the core compares sums of up to 128 float32 squares


@pytest.mark.parametrize("form", P4, ids=str)
def test_normal_weights_gain_at_least_a_twentieth_of_the_squared_error(form: PackedFormat) -> None:
    weights = drawn("normal", 64, 1024)
    found = squared_errors(weights, packed_values(weights, form), form.group).sum()
    rounded = squared_errors(weights, oracle_values(weights, form, search=False), form.group).sum()
    assert found < 0.95 * rounded


@pytest.mark.parametrize("form", P4, ids=str)
def test_values_on_a_4_bit_grid_stay_exact(form: PackedFormat) -> None:
    weights = drawn("a 4-bit grid", 16, 256)
    weights[:, ::32], weights[:, 1::32] = -2.0, 1.75  # every group spans the grid
    np.testing.assert_array_equal(packed_values(weights, form), weights)


@pytest.mark.parametrize("form", P4, ids=str)
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_finite_weights_pack_as_the_oracle_says(form: PackedFormat, data: st.DataObject) -> None:
    shape = data.draw(st.tuples(st.integers(1, 18), st.integers(1, 150)))
    finite = st.floats(width=32, allow_nan=False, allow_infinity=False, allow_subnormal=True)
    sizes = st.sampled_from(
        [finite, st.floats(-1, 1, width=32), st.sampled_from([-1.0, 0.0, 0.5, 2.0**-140])]
    )
    weights = data.draw(arrays.arrays(np.float32, shape, elements=data.draw(sizes)))
    values = packed_values(weights, form)
    assert np.isfinite(values).all()
    np.testing.assert_array_equal(values, oracle_values(weights, form))
