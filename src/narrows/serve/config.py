"""What the server needs to know before it starts: addresses, keys, limits, timeouts.

In: command-line values and the environment. Out: one frozen ServeConfig. Knows nothing of engines or HTTP.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from narrows.errors import InvalidConfig

API_KEY_VARIABLE = "NARROWS_API_KEY"


@dataclass(frozen=True, slots=True)
class ServeConfig:
    """Options of one server. All sizes and times are limits a hostile or slow client runs into."""

    model_names: tuple[str, ...]  # the first is shown; requests may use any of them
    host: str = "127.0.0.1"
    port: int = 8000  # 0: any free port
    api_keys: tuple[str, ...] = ()  # empty: open to all who can connect
    max_body_bytes: int = 10 * 1024 * 1024
    max_choices: int = 128  # prompts x n of one request
    body_timeout_s: float = 30.0  # a request body must have arrived by then
    ping_interval_s: float = 5.0  # SSE comment while a stream has nothing to say
    send_timeout_s: float = 60.0  # a client that reads nothing for so long is dropped
    drain_timeout_s: float = 30.0  # after SIGTERM, running answers may take so long

    def __post_init__(self) -> None:
        if not self.model_names or not all(self.model_names):
            raise InvalidConfig("the served model needs a name; give --served-model-name")
        if not self.host.strip():  # to the system an empty host means every interface
            raise InvalidConfig("the host is empty; give an address, such as 127.0.0.1, or 0.0.0.0 for all")
        if not 0 <= self.port <= 65535:
            raise InvalidConfig(f"port {self.port} does not exist; give 0 (any free port) to 65535")
        for name in ("max_body_bytes", "max_choices", "body_timeout_s", "ping_interval_s", "send_timeout_s"):
            if not getattr(self, name) > 0:
                raise InvalidConfig(f"{name} is {getattr(self, name)}; it must be positive")
        if not self.drain_timeout_s >= 0:
            raise InvalidConfig(f"drain_timeout_s is {self.drain_timeout_s}; it must be at least 0")


def read_api_keys(
    options: Sequence[str], key_file: str | None, *, environ: Mapping[str, str] = os.environ
) -> tuple[str, ...]:
    """Keys from options (comma separated), a file (one a line) and the environment; the options do not hide
    the rest.
    """
    listed = [*options, environ.get(API_KEY_VARIABLE, "")]
    keys = [key.strip() for text in listed for key in text.split(",")]
    if key_file is not None:
        keys += _read_key_file(Path(key_file))
    found = tuple(dict.fromkeys(key for key in keys if key))
    if not found and (options or key_file is not None):
        raise InvalidConfig(
            "an API key was asked for but none was given; pass --api-key KEY or leave the option out"
        )
    return found


def _read_key_file(path: Path) -> list[str]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidConfig(
            f"cannot read the API keys in {path}: {error}; give a text file, one key a line"
        ) from error
    return [line.strip() for line in lines if line.strip() and not line.startswith("#")]
