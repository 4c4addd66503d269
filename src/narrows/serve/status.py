"""The routes that only tell: models, health, readiness, metrics, tokens and their texts.

In: the shared Service. Out: small JSON bodies. /health says that the process lives, /ready that it takes
requests.
"""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from narrows.errors import InvalidRequest
from narrows.serve.answers import Health, ModelCard, ModelList, Text, Tokens
from narrows.serve.completions import check_token_ids
from narrows.serve.limits import read_body
from narrows.serve.metrics import CONTENT_TYPE
from narrows.serve.parse import parse_request
from narrows.serve.problems import Problem, ProblemError
from narrows.serve.prompts import conversation_text
from narrows.serve.protocol import DetokenizeRequest, TokenizeRequest
from narrows.serve.service import Service


def health() -> Response:
    body: Health = {"status": "ok"}
    return JSONResponse(body)


def ready(service: Service) -> Response:
    """Raises where the engine has failed: its error says why."""
    if service.is_draining:
        raise ProblemError(draining())
    service.engine.check_health()
    return health()


def draining() -> Problem:
    message = "the server is shutting down and takes no new requests; send it to another one or come back"
    return Problem(503, message, "server_error", code="draining", headers={"retry-after": "5"})


def list_models(service: Service) -> Response:
    body: ModelList = {
        "object": "list",
        "data": [_card(service, name) for name in service.config.model_names],
    }
    return JSONResponse(body)


def show_model(service: Service, name: str) -> Response:
    return JSONResponse(_card(service, service.check_model(name)))


def metrics(service: Service) -> Response:
    return Response(service.metrics.text(), headers={"content-type": CONTENT_TYPE})


async def tokenize(service: Service, request: Request) -> Response:
    body = await _body(service, request)
    return JSONResponse(await service.off_loop(lambda: _tokens(service, body), num_bytes=len(body)))


async def detokenize(service: Service, request: Request) -> Response:
    body = await _body(service, request)
    return JSONResponse(await service.off_loop(lambda: _text(service, body), num_bytes=len(body)))


async def _body(service: Service, request: Request) -> bytes:
    config = service.config
    return await read_body(request, max_bytes=config.max_body_bytes, timeout_s=config.body_timeout_s)


def _tokens(service: Service, body: bytes) -> Tokens:
    asked = parse_request(body, TokenizeRequest)
    service.check_model(asked.model)
    if (asked.prompt is None) == (asked.messages is None):
        raise InvalidRequest("give either prompt or messages", param="prompt")
    if asked.messages is not None:
        text, add_special = conversation_text(service.codec, asked.messages), False
    else:
        text, add_special = asked.prompt or "", asked.add_special_tokens is not False
    # However long: counting the tokens of what does not fit into the context is what this route is for.
    token_ids = service.codec.encode(text, add_special=add_special)
    return {"tokens": token_ids, "count": len(token_ids), "max_context": service.engine.info.max_context}


def _text(service: Service, body: bytes) -> Text:
    asked = parse_request(body, DetokenizeRequest)
    service.check_model(asked.model)
    check_token_ids(service, tuple(asked.tokens), param="tokens")
    return {"prompt": service.codec.decode(asked.tokens)}


def _card(service: Service, name: str) -> ModelCard:
    return {
        "id": name,
        "object": "model",
        "created": service.created_s,
        "owned_by": "narrows",
        "max_context": service.engine.info.max_context,
    }
