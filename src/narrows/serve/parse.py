"""From the bytes of a body to a checked request: JSON, then fields; the first thing wrong becomes one
InvalidRequest.

In: bytes and the wanted model class. Out: an instance. Depth, numbers, encodings and field counts are
bounded here, so that a hostile body costs no more than reading it once.
"""

from __future__ import annotations

from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails, from_json

from narrows.errors import InvalidRequest
from narrows.serve.problems import UnsupportedField
from narrows.serve.protocol import MAX_BIASED_TOKENS, MAX_MESSAGES, UNSUPPORTED

Request = TypeVar("Request", bound=BaseModel)
MAX_SHOWN_CHARS = 80


def parse_request(body: bytes, kind: type[Request]) -> Request:
    """Raises InvalidRequest or UnsupportedField, naming the field."""
    value = _json_object(body)
    _refuse_unsupported(value, kind)
    _check_widths(value)
    try:
        return kind.model_validate(value)
    except ValidationError as error:
        raise _explain(
            error.errors(include_url=False, include_input=False, include_context=True), value
        ) from None


def _json_object(body: bytes) -> dict[str, Any]:
    try:
        # Without the parser's cache of strings: 16,384 of whatever clients have sent would be kept.
        value = from_json(body, allow_inf_nan=False, cache_strings="none")
    except (
        ValueError
    ) as error:  # invalid JSON, invalid UTF-8, lone surrogates, too deep, numbers beyond any use
        raise InvalidRequest(f"the body is not valid JSON in UTF-8: {error}") from None
    if not isinstance(value, dict):
        raise InvalidRequest(f"the body should be a JSON object, not {type(value).__name__}")
    return value


def _refuse_unsupported(value: dict[str, Any], kind: type[BaseModel]) -> None:
    for name in value:
        if name in kind.model_fields:
            continue
        if name in UNSUPPORTED:
            raise UnsupportedField(f"the field '{name}' is not supported: {UNSUPPORTED[name]}", param=name)
        shown = _short(name)
        known = ", ".join(sorted(kind.model_fields))
        raise UnsupportedField(f"the field '{shown}' is not supported; the fields are: {known}", param=shown)


def _check_widths(value: dict[str, Any]) -> None:
    """pydantic reports every key of an object that is wrong: a million keys must not become a million
    reports.
    """
    for name, item in value.items():
        inner = item[: MAX_MESSAGES + 1] if isinstance(item, list) else [item]
        if any(isinstance(entry, dict) and len(entry) > MAX_BIASED_TOKENS for entry in inner):
            raise InvalidRequest(f"'{name}' holds an object with over {MAX_BIASED_TOKENS} keys", param=name)


def _explain(errors: list[ErrorDetails], value: dict[str, Any]) -> InvalidRequest:
    # Of a union (text or parts) every branch is reported; the one that got deepest is what the caller meant.
    paths = [_real_path(error["loc"], value, missing=error["type"] == "missing") for error in errors]
    best = max(range(len(errors)), key=lambda index: len(paths[index]))
    error, path = errors[best], paths[best]
    param = ".".join(_short(str(key)) for key in path)
    top = str(path[0]) if path else ""
    if top in UNSUPPORTED:
        return UnsupportedField(f"this value of '{top}' is not supported: {UNSUPPORTED[top]}", param=top)
    if error["type"] == "extra_forbidden":
        return UnsupportedField(f"the field '{param}' is not supported; leave it out", param=param)
    if error["type"] == "missing":
        return InvalidRequest(f"the field '{param}' is missing", param=param)
    reasons = dict.fromkeys(e["msg"] for e, p in zip(errors, paths, strict=True) if p == path)
    return InvalidRequest(f"the field '{param}' is wrong: {'; or: '.join(reasons)}", param=param)


def _real_path(loc: tuple[int | str, ...], value: object, *, missing: bool) -> tuple[int | str, ...]:
    """Only the steps of a pydantic location that exist in the body; pydantic adds the names of union
    branches.
    """
    path: list[int | str] = []
    for place, key in enumerate(loc):
        if isinstance(value, dict) and key in value:  # noqa: SIM114
            value = value[key]
        elif isinstance(value, list) and isinstance(key, int) and 0 <= key < len(value):
            value = value[key]
        elif not (missing and place == len(loc) - 1):
            continue
        path.append(key)
    return tuple(path)


def _short(text: str) -> str:
    return text if len(text) <= MAX_SHOWN_CHARS else text[:MAX_SHOWN_CHARS] + "..."
