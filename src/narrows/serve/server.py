"""Runs the app on uvicorn: binds the address first, drains on SIGTERM, leaves with 0.

In: a Service and its app. Out: nothing; returns when the server has ended. Knows no model: run.py loads it.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections.abc import Callable
from types import FrameType

import uvicorn

from narrows.errors import InvalidConfig
from narrows.serve.app import create_app
from narrows.serve.config import ServeConfig
from narrows.serve.connection import WatchedConnection
from narrows.serve.service import Service

logger = logging.getLogger(__name__)
BACKLOG = 2048
CUT_TIMEOUT_S = 2  # after the drain timeout, for the last error events to be sent
HEAD_BYTES = 64 * 1024  # of request line and headers


def bind(config: ServeConfig) -> socket.socket:
    """The listening socket, before any model is loaded: a taken port should not cost a minute to find out."""
    family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((config.host, config.port))
    except (OSError, UnicodeError) as error:
        listener.close()
        raise InvalidConfig(
            f"cannot listen on {config.host} port {config.port}: {error}; "
            "give another --host or --port (0: any free)"
        ) from error
    return listener


def _listen(listener: socket.socket) -> None:
    """Bound addresses can be shared until one listens: another server may have been faster at loading."""
    try:
        listener.listen(BACKLOG)
    except OSError as error:
        host, port = listener.getsockname()[:2]
        raise InvalidConfig(
            f"cannot listen on {host} port {port}: {error}; another server took it while the model was "
            "loading, give another --port (0: any free)"
        ) from error


def url_of(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


class DrainingServer(uvicorn.Server):
    """SIGTERM or Ctrl-C: new requests get 503, running ones may finish; a second signal ends those too."""

    def __init__(self, service: Service) -> None:
        super().__init__(
            uvicorn.Config(
                create_app(service),
                log_config=None,  # the root logger's settings hold for uvicorn as well
                access_log=logger.isEnabledFor(logging.DEBUG),
                lifespan="off",
                http=WatchedConnection,
                ws="none",
                backlog=BACKLOG,
                h11_max_incomplete_event_size=HEAD_BYTES,
                server_header=False,
                timeout_graceful_shutdown=CUT_TIMEOUT_S,
            )
        )
        self._service = service
        self._drain_until_s: float | None = None

    def drain(self) -> None:
        """May be called from a signal handler or another thread: sets two values."""
        self._drain_until_s = time.monotonic() + self._service.config.drain_timeout_s
        self._service.is_draining = True

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        # uvicorn would raise the signal again at the end, and the process would die of it instead of
        # leaving with 0.
        if self._drain_until_s is None:
            self.drain()
        else:
            self._drain_until_s = 0.0

    async def on_tick(self, counter: int) -> bool:
        if await super().on_tick(counter):
            return True
        if self._drain_until_s is None:
            return False
        if self._service.num_under_way == 0:
            return True
        if time.monotonic() < self._drain_until_s:
            return False
        logger.warning("ending %d requests that did not finish in time", self._service.num_under_way)
        # Their clients get the engine's error. Closing joins the engine's thread, which may be in a long
        # step.
        await asyncio.get_running_loop().run_in_executor(None, self._service.engine.close)
        return True


def serve_until_stopped(
    service: Service, listener: socket.socket, *, on_listening: Callable[[], None]
) -> None:
    """Blocks. The engine is closed by whoever made it."""
    try:
        server = DrainingServer(service)
        _listen(listener)
        on_listening()
        server.run(sockets=[listener])
    finally:
        service.close()
        listener.close()
