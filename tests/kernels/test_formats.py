"""The packed layouts: sizes as the core computes them, bytes as the numpy oracle reads them."""

from __future__ import annotations

import numpy as np
import pytest

from narrows import _core
from narrows.errors import InvalidModel
from narrows.kernels import reference
from narrows.kernels.formats import PackedFormat, PackedShape, fitting_group
from narrows.kernels.packing import pack_matrix, unpack_matrix

FORMATS = [
    PackedFormat("f32"),
    PackedFormat("f16"),
    PackedFormat("bf16"),
    *(PackedFormat(name, group) for name in ("p8", "p44") for group in (32, 64, 128)),  # type: ignore[arg-type]
    *(PackedFormat("p4", group, zero) for group in (32, 64, 128) for zero in (False, True)),
]
SIZES = [(1, 1), (16, 32), (17, 31), (33, 128), (50, 172), (16, 257), (7, 640)]
POOL = _core.ThreadPool(2)


def packed(shape: PackedShape, weights: np.ndarray) -> np.ndarray:
    # one more cache line, so that the bytes can start at a multiple of 64
    room = np.zeros(shape.num_bytes + 64, dtype=np.uint8)
    begin = -room.ctypes.data % 64
    out = room[begin : begin + shape.num_bytes]
    pack_matrix([weights], shape, out=out, interleave=False, name="w", pool=POOL)
    return out


def random(shape: tuple[int, int], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("form", FORMATS, ids=str)
@pytest.mark.parametrize(("n", "k"), SIZES)
def test_sizes_are_those_of_the_core(form: PackedFormat, n: int, k: int) -> None:
    theirs = _core.packed_bytes(format=form.name, n=n, k=k, group=form.group, has_zero=form.has_zero)
    assert PackedShape(form, n, k).num_bytes == theirs


@pytest.mark.parametrize("form", FORMATS, ids=str)
@pytest.mark.parametrize(("n", "k"), SIZES)
def test_core_and_oracle_unpack_the_same_values(form: PackedFormat, n: int, k: int) -> None:
    shape = PackedShape(form, n, k)
    data = packed(shape, random((n, k)))
    np.testing.assert_array_equal(unpack_matrix(data, shape), reference.unpack(data, shape))


@pytest.mark.parametrize("form", FORMATS, ids=str)
@pytest.mark.parametrize(("n", "k"), SIZES)
def test_packing_rounds_to_the_nearest_representable_value(form: PackedFormat, n: int, k: int) -> None:
    weights = random((n, k))
    error = np.abs(unpack_matrix(packed(PackedShape(form, n, k), weights), PackedShape(form, n, k)) - weights)
    magnitude = np.abs(weights).max(axis=1, keepdims=True)
    match form.name:
        case "f32":
            bound = 0.0 * magnitude
        case "f16":
            bound = magnitude * 2.0**-11
        case "bf16":
            bound = magnitude * 2.0**-8
        case "p8" | "p44":
            bound = magnitude / 127 / 2 * 1.001
        case "p4":
            # No worse in the sum of squares than rounding, where every value is off by at most half a step,
            # a rounded zero point by another half, scales in f16 by 2^-11 of 15 steps. Single values may be
            # further off: a grid that cuts the extremes can be the better one.
            step = magnitude * (2 / 15 if form.has_zero else 1 / 7)
            bound = step * ((1 if form.has_zero else 0.5) + 15 * 2.0**-11)
            error = np.sqrt(np.square(error).mean(axis=1, keepdims=True))
    assert (error <= bound + 1e-7).all()


@pytest.mark.parametrize("form", FORMATS, ids=str)
@pytest.mark.parametrize(("n", "k"), SIZES)
@pytest.mark.parametrize("rows", [1, 3, 9])
def test_linear_is_the_oracle_within_float32_rounding(form: PackedFormat, n: int, k: int, rows: int) -> None:
    shape = PackedShape(form, n, k)
    data, x = packed(shape, random((n, k))), random((rows, k), seed=1)
    options = {"format": form.name, "n": n, "group": form.group, "has_zero": form.has_zero}
    got = _core.linear(data, x, **options)
    wanted = reference.linear(data, shape, x)
    # each sum of k products is rounded at most k times; the quantized path rounds per group, and a code that
    # sits between two integers may fall to either side (1/127 of the group's largest value)
    scale = np.abs(x).max() * np.abs(reference.unpack(data, shape)).max() * k
    assert np.abs(got - wanted).max() <= scale * (4 * np.finfo(np.float32).eps + form.is_quantized * 1e-6)


def test_interleaved_panels_alternate() -> None:
    gate, up = random((20, 32)), random((20, 32), seed=2)
    shape = PackedShape(PackedFormat("f32"), 64, 32)
    room = np.zeros(shape.num_bytes + 64, dtype=np.uint8)
    out = room[-room.ctypes.data % 64 :][: shape.num_bytes]
    pack_matrix([gate, up], shape, out=out, interleave=True, name="w", pool=POOL)
    rows = reference.unpack(out, shape)
    np.testing.assert_array_equal(rows[:16], gate[:16])
    np.testing.assert_array_equal(rows[16:32], up[:16])
    np.testing.assert_array_equal(rows[32:36], gate[16:])
    np.testing.assert_array_equal(rows[48:52], up[16:])


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("form", FORMATS, ids=str)
def test_weights_that_are_not_finite_are_refused_by_name(form: PackedFormat, bad: float) -> None:
    weights = random((16, 32))
    weights[3, 5] = bad
    with pytest.raises(InvalidModel, match="w holds 1 values that are NaN or infinite"):
        packed(PackedShape(form, 16, 32), weights)


def test_values_beyond_f16_are_refused_with_what_to_choose_instead() -> None:
    weights = random((16, 32))
    weights[3, 5] = 1e6
    with pytest.raises(InvalidModel, match=r"w holds values up to 1e\+06, more than f16's 65504; .* bf16"):
        packed(PackedShape(PackedFormat("f16"), 16, 32), weights)
    packed(PackedShape(PackedFormat("bf16"), 16, 32), weights)


@pytest.mark.parametrize(
    ("k", "wanted", "group"),
    [(172, 128, 64), (1024, 128, 128), (2880, 128, 64), (48, 128, 64), (30, 128, 32), (640, 32, 32)],
)
def test_groups_pad_no_more_than_the_smallest_would(k: int, wanted: int, group: int) -> None:
    assert fitting_group(k, wanted) == group
