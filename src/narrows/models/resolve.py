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
# The same weights once more, in the form of another framework: gigabytes that nothing here reads.
HUB_COPIES: Final = ("consolidated*", "*/*")
REMEDY: Final = "give a model folder or a hub id such as HuggingFaceTB/SmolLM2-135M"
_HUB_ID: Final = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?(@[\w./-]+)?")


def resolve_model(model: str | Path | None, *, offline: bool = False) -> Path:
    """The folder of a model. A hub id may carry a revision: owner/name@revision."""
    if model is None:
        return embedded_model()
    try:
        path = Path(model).expanduser()
        is_folder, is_file = path.is_dir(), path.is_file()
    except (OSError, RuntimeError, ValueError) as error:  # too long, unreadable, the home of nobody
        raise InvalidModel(
            f"{str(model)[:200]} is no usable path ({_first_line(error)}); {REMEDY}"
        ) from error
    if is_folder:
        return path
    if is_file:
        raise InvalidModel(
            f"{path} is a file; give the folder that holds config.json and the safetensors files"
        )
    # Only an owner/name is asked for: one word is more likely a folder mistyped than a hub's oldest model.
    if isinstance(model, Path) or not _HUB_ID.fullmatch(model) or model.partition("@")[0].count("/") != 1:
        raise InvalidModel(f"{path} does not exist; {REMEDY}")
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
            name,
            revision=revision or None,
            allow_patterns=list(HUB_FILES),
            ignore_patterns=list(HUB_COPIES),
            local_files_only=offline,
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
    return (
        f"{name} is neither a local folder nor reachable on the Hugging Face hub "
        f"({type(error).__name__}: {_first_line(error)}). On a machine with access run: "
        f"hf download {name} --local-dir {name.rpartition('/')[2]} (older: huggingface-cli download), copy "
        f"the "
        "folder here and give its path"
    )


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:300] if lines else "no details"
