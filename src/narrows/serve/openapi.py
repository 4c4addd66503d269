"""The OpenAPI 3.1 document, made from the same types that parse requests and fill responses.

In: nothing. Out: one JSON value. Knows which route takes and gives what; app.py's routes are tested against
it.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from pydantic import TypeAdapter

from narrows import __version__
from narrows.serve import answers, problems, protocol

REF_TEMPLATE = "#/components/schemas/{model}"
SCHEMA_TYPES: tuple[Any, ...] = (
    protocol.ChatRequest,
    protocol.CompletionRequest,
    protocol.TokenizeRequest,
    protocol.DetokenizeRequest,
    answers.ChatCompletion,
    answers.ChatChunk,
    answers.Completion,
    answers.ModelCard,
    answers.ModelList,
    answers.Tokens,
    answers.Text,
    answers.Health,
    problems.ErrorBody,
)
REASONS = {
    "400": "The request is wrong; `param` names the field.",
    "401": "No valid API key.",
    "404": "Not served here.",
    "405": "The route has other methods.",
    "408": "The body did not arrive in time.",
    "413": "The body is too large.",
    "429": "The waiting queue is full; see Retry-After.",
    "500": "A bug in Narrows.",
    "503": "Shutting down, or not able to run requests.",
}
ASKING = ("401", "405", "500", "503")
TAKING = ("400", "401", "404", "405", "408", "413", "500", "503")
GENERATING = (*TAKING, "429")


@cache
def document() -> dict[str, Any]:
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Narrows",
            "version": __version__,
            "description": "OpenAI-compatible streaming service. Unknown fields are refused.",
        },
        "paths": _paths(),
        "components": {
            "schemas": _schemas(),
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{}, {"key": []}],
    }


def _paths() -> dict[str, Any]:
    name = {"name": "model", "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
    return {
        "/v1/chat/completions": {"post": _generating("ChatRequest", "ChatCompletion", "ChatChunk")},
        "/v1/completions": {"post": _generating("CompletionRequest", "Completion", "Completion")},
        "/tokenize": {"post": _taking("TokenizeRequest", _json("Tokens"), TAKING)},
        "/detokenize": {"post": _taking("DetokenizeRequest", _json("Text"), TAKING)},
        "/v1/models": {"get": _operation(_json("ModelList"), ASKING)},
        "/v1/models/{model}": {
            "get": {**_operation(_json("ModelCard"), (*ASKING, "404")), "parameters": [name]}
        },
        "/health": {"get": _operation(_json("Health"), ("405", "500"))},
        "/ready": {"get": _operation(_json("Health"), ("405", "500", "503"))},
        "/metrics": {"get": _operation({"text/plain": {"schema": {"type": "string"}}}, ASKING)},
        "/openapi.json": {"get": _operation({"application/json": {"schema": {"type": "object"}}}, ASKING)},
    }


def _generating(request: str, whole: str, chunk: str) -> dict[str, Any]:
    events = {"type": "string", "description": f"Where stream is true: events of {chunk}, then [DONE]."}
    return _taking(request, {**_json(whole), "text/event-stream": {"schema": events}}, GENERATING)


def _taking(request: str, content: dict[str, Any], errors: tuple[str, ...]) -> dict[str, Any]:
    return {**_operation(content, errors), "requestBody": {"required": True, "content": _json(request)}}


def _operation(content: dict[str, Any], errors: tuple[str, ...]) -> dict[str, Any]:
    refusals = {status: {"description": REASONS[status], "content": _json("ErrorBody")} for status in errors}
    return {"responses": {"200": {"description": "The answer.", "content": content}, **refusals}}


def _json(name: str) -> dict[str, Any]:
    return {"application/json": {"schema": {"$ref": REF_TEMPLATE.format(model=name)}}}


def _schemas() -> dict[str, Any]:
    adapters = [(kind.__name__, "validation", TypeAdapter(kind)) for kind in SCHEMA_TYPES]
    _, document = TypeAdapter.json_schemas(adapters, ref_template=REF_TEMPLATE)  # type: ignore[arg-type]
    return dict(document["$defs"])
