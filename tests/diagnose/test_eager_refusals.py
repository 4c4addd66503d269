"""What `narrows diagnose --torch` refuses, and what it says then."""

from __future__ import annotations

import builtins
import importlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from narrows import cli
from narrows.diagnose import run as verb
from narrows.diagnose.eager.causal import Choice, check_config, check_memory, device_of, weight_bytes
from narrows.errors import InvalidModel, OutOfMemory, UnsupportedHardware, UnsupportedModel
from narrows.models.config import ModelConfig, read_config
from tests.diagnose.synthetic import machine
from tests.models.tiny import save_tiny

pytest.importorskip("narrows._core", reason="the native core is not built")
pytestmark = pytest.mark.filterwarnings("default")  # torch's own warnings are no business of ours


@pytest.fixture(autouse=True)
def profile(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verb, "load_profile", lambda bar: machine())


@pytest.mark.parametrize("missing", ["torch", "transformers"])
def test_what_is_missing_is_named(
    missing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    save_tiny("llama", tmp_path)
    real: Callable[[str], Any] = importlib.import_module

    def fake(name: str, package: str | None = None) -> Any:
        if name.split(".")[0] == missing:
            raise ModuleNotFoundError(f"No module named '{name}'", name=name)
        return real(name)

    monkeypatch.setattr(importlib, "import_module", fake)
    monkeypatch.setattr(builtins, "__import__", _refusing(missing, builtins.__import__))
    assert cli._run("diagnose", [str(tmp_path), "--torch"]) == cli.EXIT_CALLER
    told = capsys.readouterr().err
    assert f"{missing} cannot be imported" in told
    assert "pip install 'narrows[torch]'" in told


def _refusing(missing: str, real: Any) -> Any:
    def refuse(name: str, *arguments: Any, **named: Any) -> Any:
        if name.split(".")[0] == missing:
            raise ModuleNotFoundError(f"No module named '{name}'", name=name)
        return real(name, *arguments, **named)

    return refuse


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"auto_map": {"AutoModel": "x.Y"}}, "--trust-remote-code"),
        ({"is_encoder_decoder": True}, "an encoder"),
    ],
)
def test_models_that_are_not_run(values: dict[str, Any], said: str) -> None:
    with pytest.raises(UnsupportedModel, match=said):
        check_config(ModelConfig(values), Choice())
    check_config(ModelConfig({"auto_map": {}}), Choice())


def test_memory_is_spoken_of_before_anything_is_loaded(tmp_path: Path) -> None:
    with pytest.raises(OutOfMemory, match=r"need 10.00 GB under torch but 8.00 GB"):
        check_memory(10 * 10**9, 8 * 10**9)
    assert "a risk" in check_memory(7 * 10**9, 8 * 10**9)[0]
    assert check_memory(10**9, 8 * 10**9) == ()
    save_tiny("llama", tmp_path)
    config = read_config(tmp_path)
    stored = weight_bytes(tmp_path, config, Choice())
    assert weight_bytes(tmp_path, config, Choice(dtype="bfloat16")) == stored // 2
    for path in tmp_path.glob("*.safetensors"):
        path.unlink()
    with pytest.raises(InvalidModel, match="holds no weights"):
        weight_bytes(tmp_path, config, Choice())


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there() -> None:
    with pytest.raises(UnsupportedHardware, match="sees no GPU"):
        device_of(torch, "cuda")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--torch", "--config-only"], "leave one of them out"),
        (["--torch", "--torch-module", "a:b"], "leave one of them out"),
        (["model", "--torch-module", "a:b"], "takes no MODEL"),
        (["--torch-dtype", "float32"], "with --torch only"),
        (["--trust-remote-code"], "with --torch only"),
        (["--torch-module", "a:b", "--torch-device", "cpu"], "with --torch only"),
        (["/no/such/folder", "--torch"], "does not exist"),
    ],
)
def test_wrong_options_are_told(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["diagnose", *words]) == cli.EXIT_CALLER
    assert said in capsys.readouterr().err


def test_a_folder_without_a_config(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["diagnose", str(tmp_path), "--torch"]) == cli.EXIT_CALLER
    assert "config.json" in capsys.readouterr().err


def test_a_model_that_transformers_cannot_load(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_tiny("llama", tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "model_type": "vit"}))
    assert cli.main(["diagnose", str(tmp_path), "--torch"]) == cli.EXIT_CALLER
    assert "as a causal language model" in capsys.readouterr().err
