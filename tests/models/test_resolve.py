"""Where a model's name leads: a folder, the embedded model, the hub, or how to get the folder."""

from __future__ import annotations

from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub.errors import LocalEntryNotFoundError
from huggingface_hub.utils import filter_repo_objects

from narrows.errors import InvalidModel
from narrows.models import resolve
from narrows.models.resolve import resolve_model


def test_folders_are_taken_as_they_are(tmp_path: Path) -> None:
    assert resolve_model(tmp_path) == tmp_path
    assert resolve_model(str(tmp_path)) == tmp_path


def test_a_file_or_a_missing_path_is_explained(tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_bytes(b"x")
    with pytest.raises(InvalidModel, match="is a file; give the folder"):
        resolve_model(str(tmp_path / "model.gguf"))
    for name in (tmp_path / "nothing", str(tmp_path / "nothing"), "nothing", "a/b/c", "../x", "", "a b/c"):
        if name == "":
            continue
        with pytest.raises(InvalidModel, match="does not exist; give a model folder or a hub id"):
            resolve_model(name)


@pytest.mark.parametrize("name", ["~nobody-of-this-name/model", "x" * 5000, "a\0b"])
def test_paths_the_system_refuses_are_explained(name: str) -> None:
    with pytest.raises(InvalidModel, match="; give a model folder or a hub id") as caught:
        resolve_model(name)
    assert len(str(caught.value)) < 1000


def test_a_revision_may_hold_slashes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def download(name: str, **options: object) -> str:
        assert (name, options["revision"]) == ("owner/name", "refs/pr/1")
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert resolve_model("owner/name@refs/pr/1") == tmp_path


def test_hub_ids_are_downloaded_with_only_the_files_needed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    calls = []

    def download(name: str, **options: object) -> str:
        calls.append((name, options))
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert resolve_model("owner/name@v1.0") == tmp_path
    ((name, options),) = calls
    assert (name, options["revision"], options["local_files_only"]) == ("owner/name", "v1.0", False)
    patterns = options["allow_patterns"]
    assert isinstance(patterns, list)
    assert "*.safetensors" in patterns
    assert not any(pattern.endswith((".bin", ".pt")) for pattern in patterns)
    files = ["config.json", "model-00001-of-00002.safetensors", "model.safetensors.index.json"]
    copies = ["consolidated.safetensors", "original/model.safetensors", "onnx/config.json"]
    ignored = options["ignore_patterns"]
    found = filter_repo_objects([*files, *copies], allow_patterns=patterns, ignore_patterns=ignored)
    assert list(found) == files


@pytest.mark.parametrize(
    "error", [LocalEntryNotFoundError("no connection"), OSError("unreachable"), ValueError("bad id")]
)
def test_an_unreachable_hub_says_how_to_get_the_folder(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def download(name: str, **options: object) -> str:
        raise error

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    with pytest.raises(
        InvalidModel, match=r"owner/name .*hf download owner/name --local-dir name.* give its path"
    ):
        resolve_model("owner/name")


def test_offline_never_asks_the_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    with pytest.raises(InvalidModel, match="owner/name is neither a local folder nor reachable"):
        resolve_model("owner/name", offline=True)


def test_nothing_means_the_embedded_model(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert (resolve_model(None) / "config.json").is_file()
    monkeypatch.setattr(resolve.resources, "files", lambda package: tmp_path)
    with pytest.raises(InvalidModel, match="the embedded model is missing"):
        resolve_model(None)
