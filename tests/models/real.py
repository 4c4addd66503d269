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
    shared = Path(os.environ.get("NARROWS_SHARED") or Path(__file__).parents[3] / "shared")
    folder = shared / "models" / name
    if folder.is_dir():
        return folder
    reason = f"{folder} is absent; set NARROWS_SHARED to the folder that holds models/"
    if os.environ.get("CI", "").lower() in ("1", "true"):
        pytest.fail(reason)
    pytest.skip(reason)
