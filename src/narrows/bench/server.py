"""Finds out what a server is and what it accepts, before anything is measured.

In: a URL and options. Out: a Target, the model's context where the server tells, and how many tokens a word
makes. Raises InvalidConfig with the remedy where nobody listens, the key is wrong, or the route is missing.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import urlsplit

from narrows.bench.client import ROUTE_PATHS, Client, Route, Target, fetch
from narrows.bench.exchange import Endpoint, ExchangeFailed
from narrows.bench.prompts import Prompt
from narrows.bench.record import Record
from narrows.bench.synthetic import WordRate, random_words
from narrows.bench.workload import Planned
from narrows.errors import InvalidConfig, NarrowsError

PROBE_WORDS = (12, 72)
PROBE_SEEDS = (11, 12, 13)
# Fields that not every server takes, the least important first: dropped one by one where it answers 400 or
# 422.
OPTIONAL_FIELDS = ("ignore_eos", "temperature", "stream_options")
REFUSED_FIELD = (400, 422)


class ServerUnusable(NarrowsError):
    """The server is there, but gives no answer that could be measured; `record` is of the first request."""

    def __init__(self, message: str, record: Record) -> None:
        super().__init__(message)
        self.record = record


@dataclass(frozen=True, slots=True)
class Address:
    endpoint: Endpoint
    base_path: str
    route: Route | None  # where the URL names one


@dataclass(frozen=True, slots=True)
class Server:
    """A server that has answered. `dropped_fields`: those it does not take."""

    target: Target
    max_context: int | None
    words: WordRate
    dropped_fields: tuple[str, ...] = ()


def parse_url(text: str, api_key: str | None) -> Address:
    """ "http://host:8000", with or without /v1 or a route's path. Raises InvalidConfig."""
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError as error:
        raise InvalidConfig(f"{text!r} is no URL: {error}") from None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise InvalidConfig(f"{text!r} is no URL of a server; it should look like http://127.0.0.1:8000")
    if parts.username or parts.query or parts.fragment:
        raise InvalidConfig("the URL should hold no user, query or fragment; keys go to --api-key")
    path, route = parts.path.rstrip("/"), None
    for name, route_path in ROUTE_PATHS.items():
        if path.endswith("/" + route_path) and route is None:
            path, route = path.removesuffix("/" + route_path), name
    is_tls = parts.scheme == "https"
    headers = {"authorization": f"Bearer {api_key}"} if api_key else {}
    if any(ord(character) < 33 or ord(character) > 126 for character in api_key or ""):
        raise InvalidConfig("the API key holds characters that no HTTP header can carry")
    endpoint = Endpoint(parts.hostname, port or (443 if is_tls else 80), is_tls, headers)
    return Address(endpoint, path if path.endswith("/v1") else f"{path}/v1", route)


async def discover_model(address: Address, *, wanted: str | None = None) -> tuple[str, int | None]:
    """`wanted`, or the first model that /v1/models names, and its context where that is told (vLLM's
    max_model_len). A server need not have the route where a model is named.
    """
    path = f"{address.base_path}/models"
    try:
        status, body = await fetch(address.endpoint, "GET", path)
    except ExchangeFailed as error:
        raise _unreachable(address.endpoint, error) from None
    if status in (401, 403):
        raise InvalidConfig(f"the server answers {status}: it wants a key; give --api-key or NARROWS_API_KEY")
    cards = _cards(body)
    card = cards[0] if wanted is None and cards else next((one for one in cards if one["id"] == wanted), {})
    if wanted is None and not card:
        raise InvalidConfig(
            f"{path} answers {status} and names no model; give --model, and check that the URL is an "
            "OpenAI-compatible server's"
        )
    return wanted or str(card["id"]), _whole(card.get("max_model_len"))


def _cards(body: bytes) -> list[dict[str, Any]]:
    try:
        cards = json.loads(body)["data"]
        return [card for card in cards if isinstance(card, dict) and "id" in card]
    except (ValueError, LookupError, TypeError):
        return []


async def probe(target: Target, *, max_context: int | None, wants_lengths: bool) -> Server:
    """Asks for one short answer, dropping fields the server refuses; then, if wanted, how many tokens words
    make.
    """
    target, dropped = await _first_answer(target)
    words = WordRate()
    tokenize = await _tokenize_facts(target)
    max_context = max_context or tokenize
    if wants_lengths:
        words = await _word_rate(target, max_context)
    return Server(target, max_context, words, dropped)


async def _first_answer(target: Target) -> tuple[Target, tuple[str, ...]]:
    dropped: list[str] = []
    candidates = [name for name in OPTIONAL_FIELDS if name in target.fields]
    while True:
        record = await _ask(target, "hello", max_tokens=1 if "ignore_eos" in target.fields else 4)
        if record.error in (None, "no_tokens"):
            return target, tuple(dropped)
        if record.error == "http" and record.status in REFUSED_FIELD and candidates:
            # The message usually names the field it is about.
            name = next((name for name in candidates if name in record.detail), candidates[0])
            candidates.remove(name)
            dropped.append(name)
            target = replace(target, fields={key: v for key, v in target.fields.items() if key != name})
            continue
        raise _unusable(target, record)


async def _ask(target: Target, text: str, *, max_tokens: int) -> Record:
    client = Client(target, began_s=asyncio.get_running_loop().time())
    return await client.send(Planned(0, Prompt.of_text(text), max_tokens), None)


async def _word_rate(target: Target, max_context: int | None) -> WordRate:
    """A line through the prompt tokens of short and long texts of WORDS. Unmeasured where there is no
    usage.
    """
    few, many = PROBE_WORDS
    if max_context is not None:
        many = max(few + 1, min(many, max_context // 3))
    counts: dict[int, list[int]] = {few: [], many: []}
    for count, found in counts.items():
        for seed in PROBE_SEEDS:
            record = await _ask(target, random_words(count, seed), max_tokens=1)
            if record.num_prompt is None:
                return WordRate()
            found.append(record.num_prompt)
    low, high = (sum(found) / len(found) for found in counts.values())
    slope = (high - low) / (many - few)
    return WordRate(slope, low - slope * few, True) if slope > 0.1 else WordRate()


async def _tokenize_facts(target: Target) -> int | None:
    """The context, from a /tokenize beside /v1 that tells it (Narrows: max_context, vLLM: max_model_len)."""
    path = target.base_path.removesuffix("/v1") + "/tokenize"
    body = json.dumps({"model": target.model, "prompt": "hello"}).encode()
    try:
        status, answer = await fetch(target.endpoint, "POST", path, body=body)
        facts: Mapping[str, Any] = json.loads(answer)
        return _whole(facts.get("max_context") or facts.get("max_model_len")) if status == 200 else None
    except (ExchangeFailed, ValueError, AttributeError):
        return None  # not part of the API: most servers have none


def _unreachable(endpoint: Endpoint, error: ExchangeFailed) -> InvalidConfig:
    return InvalidConfig(f"{error}; is the server up, and is the address {endpoint.authority} right?")


def _unusable(target: Target, record: Record) -> NarrowsError:
    said = f": {record.detail}" if record.detail else ""
    if record.error in ("refused", "client"):
        return InvalidConfig(f"{record.detail}; is the server up?")
    if record.status in (401, 403):
        return InvalidConfig(f"the server wants a key{said}; give --api-key or NARROWS_API_KEY")
    if record.status == 404:
        other = "completions" if target.route == "chat" else "chat"
        return InvalidConfig(
            f"{target.path} with model {target.model!r}{said}; try --route {other} or --model"
        )
    if record.status in REFUSED_FIELD and target.route == "chat":
        return InvalidConfig(f"{target.path} refuses the request{said}; try --route completions")
    what = record.error if record.error != "http" else f"HTTP {record.status}"
    return ServerUnusable(f"the first request to {target.path} failed ({what}){said}", record)


def _whole(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None
