"""The routes of the server, as one ASGI application.

In: a Service. Out: the app, with every error in the OpenAI form. Each route's work is in a module of its
own.
"""

from __future__ import annotations

import logging

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from narrows.errors import NarrowsError
from narrows.serve import status
from narrows.serve.answering import respond
from narrows.serve.chat import prepare_chat
from narrows.serve.completions import prepare_completion
from narrows.serve.gate import Gate
from narrows.serve.openapi import document
from narrows.serve.problems import Problem, problem_of
from narrows.serve.service import Service
from narrows.serve.stream import EventStream

logger = logging.getLogger(__name__)


def create_app(service: Service) -> ASGIApp:
    handlers = Routes(service)
    routes = [
        Route("/v1/chat/completions", handlers.chat, methods=["POST"]),
        Route("/v1/completions", handlers.complete, methods=["POST"]),
        Route("/v1/models", handlers.models, methods=["GET"]),
        Route("/v1/models/{model:path}", handlers.model, methods=["GET"]),  # hub names hold a slash
        Route("/tokenize", handlers.tokenize, methods=["POST"]),
        Route("/detokenize", handlers.detokenize, methods=["POST"]),
        Route("/health", handlers.health, methods=["GET"]),
        Route("/ready", handlers.ready, methods=["GET"]),
        Route("/metrics", handlers.metrics, methods=["GET"]),
        Route("/openapi.json", handlers.openapi, methods=["GET"]),
    ]
    app = Starlette(
        routes=routes,
        exception_handlers={HTTPException: _http_problem, NarrowsError: _problem, Exception: _problem},
    )
    app.router.redirect_slashes = False
    return Gate(app, service=service, routes=[route.path for route in routes])


class Routes:
    """Thin: each hands the shared Service to the module that does the work."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def chat(self, request: Request) -> Response | EventStream:
        return await respond(self._service, request, lambda body: prepare_chat(self._service, body))

    async def complete(self, request: Request) -> Response | EventStream:
        return await respond(self._service, request, lambda body: prepare_completion(self._service, body))

    async def models(self, request: Request) -> Response:
        return status.list_models(self._service)

    async def model(self, request: Request) -> Response:
        return status.show_model(self._service, request.path_params["model"])

    async def tokenize(self, request: Request) -> Response:
        return await status.tokenize(self._service, request)

    async def detokenize(self, request: Request) -> Response:
        return await status.detokenize(self._service, request)

    async def health(self, request: Request) -> Response:
        return status.health()

    async def ready(self, request: Request) -> Response:
        return status.ready(self._service)

    async def metrics(self, request: Request) -> Response:
        return status.metrics(self._service)

    async def openapi(self, request: Request) -> Response:
        return JSONResponse(document())


async def _problem(request: Request, error: Exception) -> Response:
    problem = problem_of(error)
    if problem.status == 500:
        logger.error("%s %s failed", request.method, request.url.path, exc_info=error)
    return problem.response()


async def _http_problem(request: Request, error: Exception) -> Response:
    """Starlette's own: unknown routes and wrong methods."""
    assert isinstance(error, HTTPException)
    messages = {
        404: f"there is no route {request.url.path[:200]}; /openapi.json lists them",
        405: f"{request.method[:20]} is not a method of {request.url.path[:200]}",
    }
    message = messages.get(error.status_code, error.detail)
    codes = {404: "unknown_url", 405: "method_not_allowed"}
    return Problem(
        error.status_code, message, code=codes.get(error.status_code), headers=dict(error.headers or {})
    ).response()
