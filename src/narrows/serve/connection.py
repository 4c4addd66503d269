"""Tells a response at once that its connection has broken; uvicorn does a turn of the event loop later.

In: a connection of uvicorn. Out: `is_closing` of its transport, in the `state` of every request's scope. A
response that has many events ready sends them within one turn: to a connection that broke at the first of
them it would write all the others, which asyncio drops with a warning each.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from starlette.types import Scope
from uvicorn.protocols.http.h11_impl import H11Protocol

STATE_KEY = "is_connection_closing"


class WatchedConnection(H11Protocol):
    """h11 by name: what `auto` takes depends on what else is installed, and HEAD_BYTES is a limit of h11."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self.app_state: dict[str, Any] = {**self.app_state, STATE_KEY: transport.is_closing}
        super().connection_made(transport)


def closing_check(scope: Scope) -> Callable[[], bool]:
    """Whether nothing that is sent from now on can arrive. Under another server than ours: always False."""
    check: Callable[[], bool] = scope.get("state", {}).get(STATE_KEY, lambda: False)
    return check
