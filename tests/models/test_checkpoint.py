"""Damaged, missing and misleading weight files are refused with a remedy; sound ones are not copied."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from narrows.errors import InvalidModel
from narrows.models.checkpoint import all_finite, open_checkpoint, widen
from narrows.models.spec import TensorSlice

TENSORS = {
    "a": torch.arange(12, dtype=torch.float32).reshape(3, 4),
    "b": torch.tensor([1.5, -2.0, 3.25], dtype=torch.bfloat16),
    "c": torch.tensor([[0.5], [65504.0]], dtype=torch.float16),
    "d": torch.tensor([1, 2], dtype=torch.int64),
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_file(TENSORS, tmp_path / "model.safetensors")
    return tmp_path


def shard(folder: Path) -> None:
    """Splits the single file in two with an index."""
    tensors = load_file(folder / "model.safetensors")
    names = sorted(tensors)
    files = {name: f"model-0000{1 + i // 2}-of-00002.safetensors" for i, name in enumerate(names)}
    for file in set(files.values()):
        save_file({name: tensors[name] for name in names if files[name] == file}, folder / file)
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": files}))


def test_views_hold_the_values_and_cannot_be_written(folder: Path) -> None:
    checkpoint = open_checkpoint(folder)
    assert {name: checkpoint.shape(name) for name in checkpoint} == {
        "a": (3, 4),
        "b": (3,),
        "c": (2, 1),
        "d": (2,),
    }
    for name in "abc":
        np.testing.assert_array_equal(checkpoint.floats(name), TENSORS[name].float().numpy())
        assert not checkpoint.tensor(name).flags.owndata
        assert not checkpoint.tensor(name).flags.writeable
    assert checkpoint.tensor("b").dtype == np.uint16


def test_slices_transpose_first_then_pick_rows(folder: Path) -> None:
    checkpoint, a = open_checkpoint(folder), TENSORS["a"].numpy()
    np.testing.assert_array_equal(checkpoint.take(TensorSlice("a", 1, 3)), a[1:3])
    np.testing.assert_array_equal(checkpoint.take(TensorSlice("a", 1, 3, transpose=True)), a.T[1:3])
    np.testing.assert_array_equal(checkpoint.take(TensorSlice("a", rows=(2, 0))), a[[2, 0]])


def test_released_tensors_can_be_read_again(folder: Path) -> None:
    big = torch.randn(64, 1024)
    save_file({"big": big}, folder / "model.safetensors")
    checkpoint = open_checkpoint(folder)
    checkpoint.tensor("big").sum()
    checkpoint.release("big")
    np.testing.assert_array_equal(checkpoint.floats("big"), big.numpy())


def test_shards_are_one_checkpoint(folder: Path) -> None:
    shard(folder)
    checkpoint = open_checkpoint(folder)
    assert sorted(checkpoint) == ["a", "b", "c", "d"]
    np.testing.assert_array_equal(checkpoint.floats("c"), TENSORS["c"].float().numpy())


def test_a_single_file_of_another_name_is_found(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "weights.safetensors")
    assert len(open_checkpoint(folder)) == 4


@pytest.mark.parametrize("keep", [0, 4, 8, 30, 200, -1])
def test_truncated_files_are_refused(folder: Path, keep: int) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(
        InvalidModel, match=r"model\.safetensors is truncated or damaged .* download it again"
    ):
        open_checkpoint(folder)


@pytest.mark.parametrize(
    "damage",
    [
        lambda raw: b"\xff" * 8 + raw[8:],  # an absurd header length
        lambda raw: raw[:8] + b"[" + raw[9:],  # not JSON
        lambda raw: raw.replace(b'"F32"', b'"F99"'),  # an unknown dtype
        lambda raw: raw.replace(b"[3,4]", b"[3,5]"),  # a shape that does not fit its bytes
        lambda raw: raw + b"extra",
    ],
)
def test_corrupt_headers_are_refused(folder: Path, damage: object) -> None:
    path = folder / "model.safetensors"
    raw = path.read_bytes()
    damaged = damage(raw)  # type: ignore[operator]
    assert damaged != raw
    path.write_bytes(damaged)
    with pytest.raises(InvalidModel, match="truncated or damaged"):
        open_checkpoint(folder)


def test_random_damage_to_the_header_never_crashes(folder: Path) -> None:
    path = folder / "model.safetensors"
    raw = path.read_bytes()
    length = 8 + int.from_bytes(raw[:8], "little")
    generator = np.random.default_rng(0)
    for _ in range(300):
        damaged = bytearray(raw)
        damaged[int(generator.integers(length))] = int(generator.integers(256))
        path.write_bytes(damaged)
        try:
            checkpoint = open_checkpoint(folder)
            for name in checkpoint:
                if checkpoint.dtype(name) in ("F32", "F16", "BF16"):
                    checkpoint.floats(name)
        except InvalidModel:
            pass


def test_missing_tensors_and_wrong_dtypes_are_named(folder: Path) -> None:
    checkpoint = open_checkpoint(folder)
    with pytest.raises(InvalidModel, match="tensor 'nothing' is missing"):
        checkpoint.tensor("nothing")
    with pytest.raises(InvalidModel, match="d has dtype I64; weights must be F32, F16, BF16"):
        checkpoint.tensor("d")


def test_a_missing_shard_is_named(folder: Path) -> None:
    shard(folder)
    (folder / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(InvalidModel, match=r"model-00002-of-00002.safetensors is missing"):
        open_checkpoint(folder)


def test_an_index_that_disagrees_with_its_shards_is_refused(folder: Path) -> None:
    shard(folder)
    path = folder / "model.safetensors.index.json"
    weight_map = json.loads(path.read_text())["weight_map"]
    path.write_text(json.dumps({"weight_map": weight_map | {"e": weight_map["a"]}}))
    with pytest.raises(InvalidModel, match="lacks tensor 'e'"):
        open_checkpoint(folder)
    path.write_text(
        json.dumps({"weight_map": {name: file for name, file in weight_map.items() if name != "a"}})
    )
    with pytest.raises(InvalidModel, match="does not list 'a'"):
        open_checkpoint(folder)
    path.write_text(json.dumps({"weight_map": weight_map | {"a": "../elsewhere.safetensors"}}))
    with pytest.raises(InvalidModel, match="not a plain file name"):
        open_checkpoint(folder)
    for wrong in ([1, 2], {}):
        path.write_text(json.dumps({"weight_map": wrong}))
        with pytest.raises(InvalidModel, match="has no weight_map"):
            open_checkpoint(folder)


def test_a_file_that_may_not_be_read_is_not_called_missing(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path, mode: str) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(InvalidModel, match=r"may not be read by this user.*change its permissions"):
        open_checkpoint(folder)


class Bomb:
    """Would leave a mark if a pickle were ever loaded."""

    def __reduce__(self) -> tuple[object, tuple[str, str]]:
        return (open, ("exploded", "w"))


def test_pickles_are_refused_with_how_to_convert_them_and_never_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(InvalidModel, match=r"pickled weights \(pytorch_model.bin\).*save_pretrained"):
        open_checkpoint(tmp_path)
    assert not (tmp_path / "exploded").exists()


def test_empty_folders_and_stray_shards_are_explained(folder: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(InvalidModel, match=r"holds no .*safetensors"):
        open_checkpoint(empty)
    (folder / "model.safetensors").rename(folder / "x.safetensors")
    (folder / "y.safetensors").write_bytes((folder / "x.safetensors").read_bytes())
    with pytest.raises(InvalidModel, match=r"2 safetensors files but no model.safetensors.index.json"):
        open_checkpoint(folder)


def test_the_fingerprint_follows_the_files(folder: Path) -> None:
    before = open_checkpoint(folder).fingerprint
    assert before == open_checkpoint(folder).fingerprint
    save_file(TENSORS | {"a": TENSORS["a"] + 1}, folder / "model.safetensors")
    assert open_checkpoint(folder).fingerprint != before  # same sizes, another time


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf"), None])
def test_all_finite_sees_every_dtype(tmp_path: Path, dtype: torch.dtype, bad: float | None) -> None:
    values = torch.linspace(-60000, 60000, 100).to(dtype)
    if bad is not None:
        values[70] = bad
    save_file({"w": values}, tmp_path / "model.safetensors")
    stored = open_checkpoint(tmp_path).tensor("w")
    assert all_finite(stored) == (bad is None)
    np.testing.assert_array_equal(widen(stored), values.float().numpy())
