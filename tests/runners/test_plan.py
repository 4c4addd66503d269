"""Which format a matrix gets: groups by kind of weights, and the head apart from the layers."""

from __future__ import annotations

from pathlib import Path

import pytest

from narrows.errors import InvalidConfig
from narrows.models.checkpoint import open_checkpoint
from narrows.models.config import read_config
from narrows.models.families import build_spec
from narrows.runners.cpu import CpuRunner
from narrows.runners.options import CpuOptions
from narrows.runners.plan import HEAD_KINDS, HeadKind, WeightsKind, resolve_recipe
from tests.models.tiny import save_tiny


@pytest.mark.parametrize(
    ("weights", "group", "head", "layers", "of_head"),
    [
        ("q4", None, "auto", ("p4", 64), ("p44", 128)),
        ("q4", 128, "auto", ("p4", 128), ("p44", 128)),
        ("q4", None, "q4", ("p4", 64), ("p4", 32)),
        ("q4", 32, "q8", ("p4", 32), ("p8", 128)),
        ("q8", None, "auto", ("p8", 128), ("p44", 128)),
        ("q8", 64, "q4", ("p8", 64), ("p4", 32)),
        ("q8", 32, "q8", ("p8", 32), ("p8", 32)),
        ("bf16", None, "auto", ("bf16", 0), ("bf16", 0)),
        ("bf16", None, "q8", ("bf16", 0), ("p8", 128)),
    ],
)
def test_layers_and_head_get_their_formats(
    weights: WeightsKind,
    group: int | None,
    head: HeadKind,
    layers: tuple[str, int],
    of_head: tuple[str, int],
    tmp_path: Path,
) -> None:
    save_tiny("llama", tmp_path)
    checkpoint = open_checkpoint(tmp_path)
    spec = build_spec(read_config(tmp_path), checkpoint)
    recipe = resolve_recipe(weights, group, head, spec, checkpoint)
    for wanted, found in (
        (layers, recipe.matrix_format(4096)),
        (of_head, recipe.head_format(4096)),
    ):
        assert (found.name, found.group) == wanted


@pytest.mark.parametrize("head", HEAD_KINDS)
@pytest.mark.parametrize("weights", ["f32", "q8", "q4"])
def test_every_head_runs_and_is_described(weights: WeightsKind, head: HeadKind, tmp_path: Path) -> None:
    save_tiny("llama", tmp_path)
    options = CpuOptions(weights=weights, head=head, cache=False, num_blocks=4, threads=1)
    runner = CpuRunner.from_folder(tmp_path, options)
    exact = CpuRunner.from_folder(tmp_path, CpuOptions(weights="f32", cache=False, num_blocks=4, threads=1))
    ids = list(range(2, 12))
    difference = abs(runner.logits(ids) - exact.logits(ids)).max()
    assert (difference == 0) == (weights == "f32" and head == "auto")
    shown = runner.info.description["weights"]
    assert head == "auto" or shown.split("head ")[-1].startswith(head)


def test_an_unknown_head_is_refused_with_the_known_ones() -> None:
    with pytest.raises(InvalidConfig, match="head is 'q2'; it must be one of auto, q8, q4"):
        CpuOptions(head="q2")  # type: ignore[arg-type]
