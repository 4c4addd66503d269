"""Packed weights on disk: used when sound, rebuilt when stale or damaged, done without on a full disk."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from narrows import _core
from narrows.errors import InvalidModel
from narrows.kernels import cache
from narrows.kernels.cache import cache_entry, cache_folder, cache_writer, map_cache
from narrows.models import safetensors_file
from narrows.runners.cpu import CpuRunner
from narrows.runners.options import CpuOptions
from tests.models.tiny import prompt, save_tiny

IDS = prompt(20)
POOL = _core.ThreadPool(2)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    save_tiny("llama", folder)
    os.utime(folder / "model.safetensors", (1e9, 1e9))
    return folder


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("NARROWS_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


def load(folder: Path, weights: str = "q8", **options: object) -> CpuRunner:
    return CpuRunner.from_folder(folder, CpuOptions(weights=weights, num_blocks=8, **options))  # type: ignore[arg-type]


def state(runner: CpuRunner) -> str:
    return runner.info.description["cache"]


@pytest.mark.parametrize("weights", ["f32", "bf16", "q8", "q4"])
def test_the_second_load_maps_what_the_first_one_packed(saved: Path, home: Path, weights: str) -> None:
    first, second = load(saved, weights), load(saved, weights)
    assert (state(first), state(second)) == ("written", "used")
    assert "pack" in first.load_times
    assert "pack" not in second.load_times
    assert second.load_times["verify"] > 0
    np.testing.assert_array_equal(first.logits(IDS), second.logits(IDS))
    np.testing.assert_array_equal(first.logits(IDS), load(saved, weights, cache=False).logits(IDS))
    assert [path.suffix for path in home.iterdir()] == [".packed"]


def test_each_recipe_has_a_file_of_its_own(saved: Path, home: Path) -> None:
    for weights in ("f32", "q8", "q4"):
        load(saved, weights)
    load(saved, "q4", group=32)
    assert len(list(home.iterdir())) == 4


def test_without_the_cache_nothing_is_written(saved: Path, home: Path) -> None:
    assert state(load(saved, cache=False)) == "off"
    assert not home.exists()


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda raw: raw[: len(raw) // 2], "wrong size"),
        (lambda raw: raw[:10], "not a packed model"),
        (lambda raw: b"", "not a packed model"),
        (lambda raw: b"X" + raw[1:], "not a packed model"),
        (lambda raw: raw[:60] + b"#" + raw[61:], "header does not match"),
        (lambda raw: raw[:8] + b"\xff" * 8 + raw[16:], "header does not match"),
        (lambda raw: raw[:-5] + bytes([raw[-5] ^ 1]) + raw[-4:], "checksum does not match"),
        (lambda raw: raw[:4096] + bytes([raw[4096] ^ 128]) + raw[4097:], "checksum does not match"),
        (lambda raw: raw + b"x", "wrong size"),
    ],
)
def test_a_damaged_file_is_reported_and_rebuilt(
    saved: Path, home: Path, caplog: pytest.LogCaptureFixture, damage: object, reason: str
) -> None:
    wanted = load(saved).logits(IDS)
    (file,) = home.iterdir()
    raw = file.read_bytes()
    file.write_bytes(damage(raw))  # type: ignore[operator]
    with caplog.at_level(logging.WARNING):
        runner = load(saved)
    assert reason in caplog.text
    assert state(runner) == "written"
    np.testing.assert_array_equal(runner.logits(IDS), wanted)
    assert file.read_bytes() == raw


def change_weights(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors["model.norm.weight"] = tensors["model.norm.weight"] * 2
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def test_a_changed_model_is_packed_again_and_replaces_its_file(
    tmp_path: Path, home: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_tiny("llama", tmp_path / "model")
    before = load(tmp_path / "model").logits(IDS)
    change_weights(tmp_path / "model")  # within one tick of the clock: same size, perhaps the same time
    after = load(tmp_path / "model")
    assert "stale" in caplog.text
    assert state(after) == "written"
    assert not np.array_equal(before, after.logits(IDS))
    assert len(list(home.iterdir())) == 1
    monkeypatch.setattr(
        safetensors_file, "SETTLED_NS", 0
    )  # as if the file had aged: its fingerprint is another one
    assert state(load(tmp_path / "model")) == "written"
    assert state(load(tmp_path / "model")) == "used"


def test_another_layout_version_is_stale(
    saved: Path, home: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    load(saved)
    monkeypatch.setattr(cache, "LAYOUT_VERSION", cache.LAYOUT_VERSION + 1)
    assert state(load(saved)) == "written"
    assert "stale" in caplog.text


def test_a_folder_that_cannot_be_written_only_warns(
    saved: Path, home: Path, caplog: pytest.LogCaptureFixture
) -> None:
    home.parent.mkdir(exist_ok=True)
    home.write_text("a file where the folder should be")  # refused to root as well, unlike a mode
    runner = load(saved)
    assert "cannot be kept" in caplog.text
    assert state(runner) == "off"
    np.testing.assert_array_equal(runner.logits(IDS), load(saved, cache=False).logits(IDS))


def test_a_full_disk_only_warns_and_leaves_nothing_behind(
    saved: Path, home: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_space(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", no_space)
    assert state(load(saved)) == "off"
    assert "No space left" in caplog.text
    assert list(home.iterdir()) == []


def test_a_model_with_nan_leaves_no_file(tmp_path: Path, home: Path) -> None:
    save_tiny("llama", tmp_path / "model")
    tensors = load_file(tmp_path / "model" / "model.safetensors")
    tensors["model.layers.2.mlp.down_proj.weight"][3, 4] = float("nan")
    save_file(tensors, tmp_path / "model" / "model.safetensors")
    with pytest.raises(
        InvalidModel, match=r"model.layers.2.mlp.down_proj.weight holds 1 values that are NaN"
    ):
        load(tmp_path / "model")
    assert list(home.iterdir()) == []


@pytest.mark.parametrize("name", ["model.norm.weight", "model.embed_tokens.weight", "lm_head.weight"])
@pytest.mark.parametrize("use_cache", [True, False])
def test_nan_anywhere_is_named(tmp_path: Path, home: Path, name: str, use_cache: bool) -> None:
    save_tiny("llama", tmp_path / "model")
    tensors = load_file(tmp_path / "model" / "model.safetensors")
    tensors[name].reshape(-1)[7] = float("inf")
    save_file(tensors, tmp_path / "model" / "model.safetensors")
    with pytest.raises(InvalidModel, match=f"{name} holds .*NaN or infinite"):
        load(tmp_path / "model", cache=use_cache)


def test_abandoned_temporary_files_are_removed(saved: Path, home: Path) -> None:
    load(saved)
    (file,) = home.iterdir()
    old, fresh = home / f"{file.stem}old.tmp", home / f"{file.stem}fresh.tmp"
    old.write_bytes(b"x")
    fresh.write_bytes(b"x")
    os.utime(old, (1e9, 1e9))
    file.unlink()
    load(saved)
    assert sorted(home.iterdir()) == sorted([file, fresh])


def test_a_writer_that_fails_leaves_nothing(tmp_path: Path) -> None:
    entry = cache_entry(tmp_path, slot="s", key="k", num_bytes=100)

    def fail() -> None:
        with cache_writer(entry) as writer:
            writer.data[:] = 1
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert list(tmp_path.iterdir()) == []
    assert map_cache(entry, POOL) == (None, "")


def test_many_processes_packing_at_once_leave_one_sound_file(saved: Path, home: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from narrows.runners.cpu import CpuRunner; "
        "from narrows.runners.options import CpuOptions; "
        "r = CpuRunner.from_folder(Path(sys.argv[1]), CpuOptions(weights='q8', num_blocks=8)); "
        "print(float(abs(r.logits(list(range(20)))).sum()))"
    )
    processes = [
        subprocess.Popen([sys.executable, "-c", code, str(saved)], stdout=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    results = [process.communicate(timeout=120)[0] for process in processes]
    assert all(process.returncode == 0 for process in processes)
    assert len(set(results)) == 1
    assert len(list(home.iterdir())) == 1
    assert state(load(saved)) == "used"


def test_the_folder_follows_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("NARROWS_CACHE_DIR", str(tmp_path))
    assert cache_folder() == tmp_path
    monkeypatch.delenv("NARROWS_CACHE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", "/x")
    assert cache_folder() == Path("/x/narrows")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/h")
    assert cache_folder() == Path("/h/.cache/narrows")


def test_a_user_without_a_home_runs_without_a_cache(
    saved: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("NARROWS_CACHE_DIR", "~nobody-of-this-name/cache")
    assert state(load(saved)) == "off"
    assert "set NARROWS_CACHE_DIR to keep them" in caplog.text


def test_progress_counts_every_tensor(saved: Path, home: Path) -> None:
    seen: list[tuple[int, int]] = []
    CpuRunner.from_folder(
        saved, CpuOptions(num_blocks=8), progress=lambda done, total: seen.append((done, total))
    )
    assert [done for done, _ in seen] == list(range(seen[-1][1] + 1))
