"""Where the shared real models are, and what to do where they are not."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from narrows.models.resolve import embedded_model

NAMES = ("stories260k-llama", "babyllama-char", "tinychat-gptneo")


EMBEDDED = "embedded"


def real_model(name: str) -> Path:
    """The folder of a shared model, or of the embedded one. Skips where it is absent, but fails in CI."""
    if name == EMBEDDED:
        return embedded_model()
    folder = _shared() / "models" / name
    if folder.is_dir():
        return folder
    reason = f"{folder} is absent; set NARROWS_SHARED to the folder that holds models/"
    if os.environ.get("CI", "").lower() in ("1", "true"):
        pytest.fail(reason)
    pytest.skip(reason)


def real_tokenizer(name: str) -> Path:
    """The folder of a shared tokenizer.json; skips where it is absent."""
    folder = _shared() / "data" / "tokenizers" / name
    if not folder.is_dir():
        pytest.skip(f"{folder} is absent; set NARROWS_SHARED to the folder that holds data/")
    return folder


def _shared() -> Path:
    return Path(os.environ.get("NARROWS_SHARED") or Path(__file__).parents[3] / "shared")
