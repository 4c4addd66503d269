"""Quality of formats: the statistics, the weights that our formats hold, a peer that fails, the codebook."""

from __future__ import annotations

from pathlib import Path

import codebook
import format_quality
import numpy as np
import pytest
import quality_formats
import torch
from quality_statistics import compare
from workers import EngineError

from narrows import _core
from narrows.models.resolve import embedded_model

TEXT = "Once upon a time there was a little girl named Lily. She liked to play in the garden. " * 60
POOL = _core.ThreadPool(1)


def log_rows(*rows: tuple[float, ...]) -> list[torch.Tensor]:
    return [torch.log(torch.tensor(rows))]


def test_equal_distributions_have_no_divergence_and_ratio_one() -> None:
    same = log_rows((0.5, 0.5), (0.9, 0.1))
    quality = compare(same, same, [[0, 1]])
    assert (quality.mean, quality.max, quality.same_top, quality.perplexity_ratio) == (0.0, 0.0, 1.0, 1.0)


def test_divergence_and_perplexity_are_those_of_the_definition() -> None:
    exact, other = log_rows((0.75, 0.25), (0.5, 0.5)), log_rows((0.25, 0.75), (0.5, 0.5))
    quality = compare(exact, other, [[1, 1]])
    divergence = 0.75 * np.log(3) - 0.25 * np.log(3)
    assert quality.mean == pytest.approx(divergence / 2)
    assert quality.max == pytest.approx(divergence)
    assert quality.same_top == 0.5
    assert quality.perplexity_ratio == pytest.approx(0.25 / 0.75)  # token 1 follows the first position


def test_our_formats_hold_what_they_say_and_the_search_never_loses() -> None:
    rng = np.random.default_rng(0)
    matrices = {"head": rng.standard_normal((48, 256)), "layer": rng.standard_normal((64, 256))}
    matrices = {name: rows.astype(np.float32) for name, rows in matrices.items()}
    held = {
        ours.name + ours.head: quality_formats.hold_ours(ours, matrices, frozenset(["head"]), POOL)
        for ours in quality_formats.our_formats()
    }
    for name, row in held.items():
        assert row.values.keys() == matrices.keys()
        assert sum(row.types.values()) == pytest.approx(1.0), name
    for group in (32, 64, 128):
        for kind in ("sym", "affine"):
            searched, rounded = (
                held[f"narrows g{group} {kind}p8"],
                held[f"narrows g{group} {kind}, roundedp8"],
            )
            assert searched.bits_per_weight == rounded.bits_per_weight
            error = quality_formats.relative_rms
            assert error(searched.values, matrices) < error(rounded.values, matrices)


def test_the_codebook_holds_16_levels_a_group_and_is_closer_than_a_linear_grid() -> None:
    rows = np.random.default_rng(1).standard_normal((40, 500)).astype(np.float32)
    values = codebook.quantize(rows, 32)
    for group in values[:, :480].reshape(-1, 32):
        assert len(np.unique(group)) <= 16
    linear = quality_formats.hold_ours(quality_formats.our_formats()[4], {"w": rows}, frozenset(), POOL)
    error = quality_formats.relative_rms({"w": values}, {"w": rows})
    assert error < quality_formats.relative_rms(linear.values, {"w": rows})
    assert not codebook.quantize(np.zeros((2, 256), np.float32), 32).any()


def test_a_peer_that_fails_is_a_row_with_its_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise EngineError("no environment: run setup.sh")

    monkeypatch.setattr(quality_formats, "hold_peer", fail)
    monkeypatch.setattr(format_quality, "CONTEXT", 32)
    monkeypatch.setattr(format_quality, "WINDOWS", 2)
    ours = quality_formats.our_formats()
    monkeypatch.setattr(quality_formats, "our_formats", lambda: [ours[0], ours[-1]])
    format_quality.make_bf16(embedded_model(), tmp_path)
    subject = format_quality.open_subject("embedded", tmp_path, TEXT)
    rows = list(format_quality.measure(subject, POOL))
    assert len(subject.windows) == 2
    failed = [row for row in rows if row.error]
    assert [row.format for row in failed] == [f"{peer} {kind}" for peer, kind in quality_formats.PEERS]
    assert "failed: no environment" in format_quality.line(failed[0])
    q4, q8 = (row for row in rows if row.format in ("narrows g128 sym", "narrows q8"))
    assert q4.quality is not None
    assert q8.quality is not None
    assert 0 < q8.quality.mean < 0.1 * q4.quality.mean
    assert q8.bits_per_weight is not None
    assert 8.0 < q8.bits_per_weight < 8.3
