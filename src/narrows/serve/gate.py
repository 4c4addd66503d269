"""What every HTTP request passes before and after its route: key, draining, request id, counting.

An ASGI middleware around the routes. In: the Service. Out: refusals in the OpenAI error form, and the
x-request-id header on every response. Knows no route but the two that are open without a key.
"""

from __future__ import annotations

import hmac
import re
import uuid
from collections.abc import Sequence

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from narrows.serve.problems import Problem
from narrows.serve.service import Service
from narrows.serve.status import draining

OPEN_PATHS = frozenset({"/health", "/ready"})
# Watching a server that drains must not hold it up, nor be refused.
UNCOUNTED_PATHS = OPEN_PATHS | {"/metrics"}
REQUEST_ID_HEADER = "x-request-id"
_SAFE_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")


class Gate:
    """Wraps the routes; `routes` are the paths that metrics name, all others count as "other"."""

    def __init__(self, app: ASGIApp, *, service: Service, routes: Sequence[str]) -> None:
        self._app = app
        self._service = service
        self._keys = tuple(key.encode() for key in service.config.api_keys)
        self._routes = frozenset(routes)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        headers = Headers(scope=scope)
        path: str = scope["path"]
        request_id = _request_id(headers)

        async def send_marked(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)[REQUEST_ID_HEADER] = request_id
                route = path if path in self._routes else "other"
                self._service.metrics.observe_response(route=route, status=message["status"])
            await send(message)

        problem = self._refusal(path, headers)
        if problem is not None:
            return await problem.response()(scope, receive, send_marked)
        if path in UNCOUNTED_PATHS:
            return await self._app(scope, receive, send_marked)
        self._service.num_under_way += 1
        try:
            await self._app(scope, receive, send_marked)
        finally:
            self._service.num_under_way -= 1

    def _refusal(self, path: str, headers: Headers) -> Problem | None:
        if path in OPEN_PATHS:
            return None
        if self._keys and not self._is_key(headers.get("authorization", "")):
            message = "a valid API key is needed: send the header 'Authorization: Bearer KEY'"
            return Problem(401, message, code="invalid_api_key", headers={"www-authenticate": "Bearer"})
        if self._service.is_draining and path not in UNCOUNTED_PATHS:
            return draining()
        return None

    def _is_key(self, authorization: str) -> bool:
        scheme, _, given = authorization.partition(" ")
        candidate = given.strip().encode("latin-1")
        # Every key is compared, whichever fits: the time taken tells nothing about them.
        matches = [hmac.compare_digest(candidate, key) for key in self._keys]
        return scheme.lower() == "bearer" and any(matches)


def _request_id(headers: Headers) -> str:
    """The caller's own id where it is harmless in logs, else a new one."""
    given = headers.get(REQUEST_ID_HEADER, "")
    return given if _SAFE_ID.fullmatch(given) else f"req_{uuid.uuid4().hex}"
