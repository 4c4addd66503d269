"""Prompts out of JSONL files, in the shapes that are about.

In: a file (also .gz), one JSON object a line: {"prompt"}, {"messages"}, {"turns"}, {"conversations"}
(ShareGPT), {"question"}, {"instruction"}, {"text"}. Out: Prompts. Of turns the first is asked: the later ones
need answers.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from narrows.errors import InvalidConfig

TEXT_FIELDS = ("prompt", "question", "instruction", "text")
OUTPUT_FIELDS = ("max_tokens", "output_tokens", "output_length")
ROLES = {"human": "user", "user": "user", "system": "system", "gpt": "assistant", "assistant": "assistant"}


@dataclass(frozen=True, slots=True)
class Prompt:
    """What to ask, for either route."""

    messages: tuple[Mapping[str, str], ...]

    @staticmethod
    def of_text(text: str) -> Prompt:
        return Prompt(({"role": "user", "content": text},))

    @property
    def text(self) -> str:
        """For the completions route: contents alone, a line each."""
        return "\n".join(message["content"] for message in self.messages)


def read_prompts(path: Path) -> list[tuple[Prompt, int | None]]:
    """Each prompt with the answer's length, where its line has one. Raises InvalidConfig, naming file and
    line.
    """
    found = []
    try:
        with (
            gzip.open(path, "rt", encoding="utf-8")
            if path.suffix == ".gz"
            else path.open(encoding="utf-8") as file
        ):
            for number, line in enumerate(file, start=1):
                if line.strip():
                    found.append(_row(line, f"{path}:{number}"))
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise InvalidConfig(f"the prompts {path} cannot be read: {error}") from None
    if not found:
        raise InvalidConfig(f"the file {path} has no prompts")
    return found


def _row(line: str, where: str) -> tuple[Prompt, int | None]:
    try:
        body = json.loads(line)
    except ValueError as error:
        raise InvalidConfig(f"{where}: this line is no JSON: {error}") from None
    if not isinstance(body, dict):
        raise InvalidConfig(f"{where}: this line should be a JSON object, not {type(body).__name__}")
    prompt = _prompt(body)
    if prompt is None:
        raise InvalidConfig(
            f"{where}: no prompt in this line; give text as {', '.join(TEXT_FIELDS)}, or messages, turns or "
            f"conversations. It has: {', '.join(map(str, body)) or 'nothing'}"
        )
    return prompt, _output_tokens(body, where)


def _prompt(body: Mapping[str, Any]) -> Prompt | None:
    messages = body.get("messages", body.get("conversations", body.get("prompt")))
    if isinstance(messages, list) and messages:
        return _conversation(messages)
    turns = body.get("turns")
    if isinstance(turns, list) and turns and isinstance(turns[0], str) and turns[0]:
        return Prompt.of_text(turns[0])
    for name in TEXT_FIELDS:
        text = body.get(name)
        if isinstance(text, str) and text:
            extra = body.get("input") if name == "instruction" else None
            return Prompt.of_text(f"{text}\n{extra}" if isinstance(extra, str) and extra else text)
    return None


def _conversation(messages: list[Any]) -> Prompt | None:
    """Everything before the last answer: a conversation that ends with an answer is asked for that answer."""
    found: list[dict[str, str]] = []
    for message in messages:
        if not isinstance(message, dict):
            return None
        role = ROLES.get(str(message.get("role", message.get("from"))))
        content = message.get("content", message.get("value"))
        if role is None or not isinstance(content, str):
            return None
        found.append({"role": role, "content": content})
    while found and found[-1]["role"] != "user":
        found.pop()
    return Prompt(tuple(found)) if found else None


def _output_tokens(body: Mapping[str, Any], where: str) -> int | None:
    for name in OUTPUT_FIELDS:
        value = body.get(name)
        if value is None:
            continue
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise InvalidConfig(f"{where}: {name} is {value!r}; it should be a positive whole number")
        return value
    return None
