"""Profiles on disk, one file a fingerprint, beside the packed weights: whole or not there, checked when read.

A file holds a checksum and the profile. What is damaged, of another version or of another machine is reported
with the reason and never trusted.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from contextlib import suppress
from pathlib import Path

from narrows.errors import InvalidConfig
from narrows.machine.profile import MachineProfile


def profile_path(folder: Path, fingerprint: str) -> Path:
    return folder / f"machine-{fingerprint}.json"


def load_profile(folder: Path, fingerprint: str) -> tuple[MachineProfile | None, str]:
    """The stored profile of this machine, or None and why ("" where there is none)."""
    path = profile_path(folder, fingerprint)
    try:
        stored = json.loads(path.read_text())
        profile_data, checksum = stored["profile"], stored["checksum"]
    except FileNotFoundError:
        return None, ""
    except (OSError, ValueError, TypeError, KeyError) as error:
        return None, f"{path} is damaged or unreadable ({type(error).__name__}: {error})"
    if checksum != _checksum(profile_data):
        return None, f"{path} is damaged (its checksum does not match)"
    try:
        profile = MachineProfile.from_json(profile_data)
    except InvalidConfig as error:
        return None, f"{path} is stale: {error}"
    if profile.fingerprint != fingerprint:
        return None, f"{path} is of another machine"
    return profile, ""


def save_profile(folder: Path, profile: MachineProfile) -> None:
    """Writes beside and renames, so that a reader finds the old file or the new one. Raises OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    data = json.loads(json.dumps(profile.to_json()))  # as a reader will see it
    text = json.dumps({"checksum": _checksum(data), "profile": data}, indent=1)
    descriptor, name = tempfile.mkstemp(prefix="machine-", suffix=".tmp", dir=folder)
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(name, profile_path(folder, profile.fingerprint))
    except BaseException:
        with suppress(OSError):
            os.unlink(name)
        raise


def _checksum(data: object) -> str:
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()
