"""From what a user wrote to a model folder: a path, a Hugging Face hub id, or nothing for the embedded model.

In: a string, a path or None. Out: a local folder. Knows nothing of what is inside.
"""

from __future__ import annotations

import re
from importlib import resources
from pathlib import Path
from typing import Final

from narrows.errors import InvalidModel

HUB_FILES: Final = ("*.json", "*.safetensors", "*.jinja", "tokenizer.model")
_HUB_ID: Final = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?(@[\w./-]+)?")


def resolve_model(model: str | Path | None, *, offline: bool = False) -> Path:
    """The folder of a model. A hub id may carry a revision: owner/name@revision."""
    if model is None:
        return embedded_model()
    path = Path(model).expanduser()
    if path.is_dir():
        return path
    if path.is_file():
        raise InvalidModel(
            f"{path} is a file; give the folder that holds config.json and the safetensors files"
        )
    if isinstance(model, Path) or not _HUB_ID.fullmatch(model) or model.count("/") != 1:
        raise InvalidModel(
            f"{path} does not exist; give a model folder or a hub id such as HuggingFaceTB/SmolLM2-135M"
        )
    return _download(model, offline=offline)


def embedded_model() -> Path:
    """The model that is shipped inside the package."""
    folder = Path(str(resources.files("narrows.demo"))) / "model"
    if not (folder / "config.json").is_file():
        raise InvalidModel(
            f"the embedded model is missing from {folder}; reinstall narrows or name a model folder"
        )
    return folder


def _download(model: str, *, offline: bool) -> Path:
    # imported here: it takes longer to import than everything else, and a local folder does not need it
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    name, _, revision = model.partition("@")
    try:
        folder = snapshot_download(
            name, revision=revision or None, allow_patterns=list(HUB_FILES), local_files_only=offline
        )
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
        raise InvalidModel(_how_to_get(name, error)) from error
    except (
        Exception
    ) as error:  # the HTTP client beneath the hub has exceptions of its own, which change with it
        if type(error).__module__.partition(".")[0] not in (
            "httpx",
            "httpcore",
            "httpx2",
            "httpcore2",
            "requests",
        ):
            raise
        raise InvalidModel(_how_to_get(name, error)) from error
    return Path(folder)


def _how_to_get(name: str, error: Exception) -> str:
    reason = str(error).strip().splitlines()
    return (
        f"{name} is neither a local folder nor reachable on the Hugging Face hub "
        f"({type(error).__name__}: {reason[0] if reason else 'no details'}). On a machine with access run: "
        f"hf download {name} --local-dir {name.rpartition('/')[2]} (older: huggingface-cli download), copy "
        f"the "
        "folder here and give its path"
    )
