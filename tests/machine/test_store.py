"""Stored profiles: read back as they were; stale, damaged and foreign ones are told apart and not trusted."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from narrows.machine.store import load_profile, profile_path, save_profile
from tests.machine.fakes import profile

ONE = profile()


def stored(folder: Path) -> Path:
    save_profile(folder, ONE)
    return profile_path(folder, ONE.fingerprint)


def test_a_profile_is_read_back_as_it_was(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "folder"
    path = stored(folder)
    assert load_profile(folder, ONE.fingerprint) == (ONE, "")
    assert list(folder.iterdir()) == [path]


def test_no_file_is_no_complaint(tmp_path: Path) -> None:
    assert load_profile(tmp_path, "e" * 24) == (None, "")
    stored(tmp_path)
    assert load_profile(tmp_path, "e" * 24) == (None, "")


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", "3", '{"profile": {}}', '{"checksum": "x", "profile": {}}', "\x00\xff"]
)
def test_a_damaged_file_is_not_trusted(tmp_path: Path, text: str) -> None:
    stored(tmp_path).write_text(text, encoding="latin-1")
    found, why = load_profile(tmp_path, ONE.fingerprint)
    assert found is None
    assert "damaged" in why


def test_every_changed_figure_is_noticed(tmp_path: Path) -> None:
    path = stored(tmp_path)
    text = path.read_text()
    path.write_text(text.replace("30.0", "300.0", 1))
    assert "checksum" in load_profile(tmp_path, ONE.fingerprint)[1]
    path.write_text(text[: len(text) // 2])
    assert "damaged" in load_profile(tmp_path, ONE.fingerprint)[1]


def test_another_version_is_stale_and_another_machine_is_foreign(tmp_path: Path) -> None:
    save_profile(tmp_path, profile(version=0))
    assert "stale" in load_profile(tmp_path, ONE.fingerprint)[1]
    save_profile(tmp_path, profile(fingerprint="a" * 24))
    os.replace(profile_path(tmp_path, "a" * 24), profile_path(tmp_path, ONE.fingerprint))
    assert "another machine" in load_profile(tmp_path, ONE.fingerprint)[1]


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = stored(tmp_path)

    def full(_descriptor: int) -> None:
        raise OSError("no space left")

    monkeypatch.setattr("narrows.machine.store.os.fsync", full)
    with pytest.raises(OSError, match="no space"):
        save_profile(tmp_path, profile(seconds=1.0))
    assert list(tmp_path.iterdir()) == [path]
    assert load_profile(tmp_path, ONE.fingerprint) == (ONE, "")
    assert json.loads(path.read_text())["profile"]["seconds"] == ONE.seconds
