"""A real server on a real socket over FakeRunner: everything above the runner is the product's own code."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import openai

from narrows.engine.config import EngineConfig
from narrows.engine.engine import Engine
from narrows.engine.fake import ByteTokenizer, FakeRunner
from narrows.engine.worker import EngineWorker
from narrows.serve.config import ServeConfig
from narrows.serve.metrics import Metrics
from narrows.serve.server import DrainingServer, bind, url_of
from narrows.serve.service import Service

MODEL = "fake"
ASK = {"model": MODEL, "messages": [{"role": "user", "content": "hi"}]}
DEADLINE_S = 10.0


class QuickByteTokenizer(ByteTokenizer):
    """Plain texts of megabytes without a Python loop."""

    def encode(self, text: str, *, add_special: bool = True) -> list[int]:
        if "<|" in text:
            return super().encode(text, add_special=add_special)
        return [*super().encode("", add_special=add_special), *text.encode()]


@dataclass
class RunningServer:
    url: str
    service: Service
    runner: FakeRunner
    engine: EngineWorker
    server: DrainingServer

    @property
    def address(self) -> tuple[str, int]:
        host, port = self.url.removeprefix("http://").split(":")
        return host, int(port)

    def client(self, **options: Any) -> openai.OpenAI:
        return openai.OpenAI(
            **{"base_url": f"{self.url}/v1", "api_key": "none", "max_retries": 0, "timeout": 30, **options}
        )

    def async_client(self) -> openai.AsyncOpenAI:
        return openai.AsyncOpenAI(base_url=f"{self.url}/v1", api_key="none", max_retries=0, timeout=30)

    def http(self, **options: Any) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=30, **options)

    def raw(self, request: bytes = b"") -> socket.socket:
        """A bare connection, for clients that behave as no library would."""
        connection = socket.create_connection(self.address, timeout=DEADLINE_S)
        connection.sendall(request)
        return connection

    def is_idle(self) -> bool:
        stats = self.engine.stats()
        return not (
            stats.num_used_blocks or stats.num_running or stats.num_waiting or self.runner.num_samplers
        )


@contextmanager
def running_server(
    *, runner: FakeRunner | None = None, engine_config: EngineConfig | None = None, **options: Any
) -> Iterator[RunningServer]:
    runner = runner or FakeRunner()
    codec = QuickByteTokenizer()
    # Without speculation unless asked for: it goes by the clock, and tests count steps.
    settings = engine_config or EngineConfig(speculation="off")
    engine = EngineWorker(Engine(runner, codec, eos_ids=codec.eos_ids, config=settings))
    config = ServeConfig(**{"model_names": (MODEL, "alias/of-fake"), "port": 0, **options})
    service = Service(config, engine, codec, Metrics(MODEL, engine))
    listener = bind(config)
    listener.listen(128)
    server = DrainingServer(service)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        wait_for(lambda: server.started)
        yield RunningServer(url_of(listener), service, runner, engine, server)
    finally:
        runner.gate.set()
        server.should_exit = True
        thread.join(DEADLINE_S)
        engine.close()
        service.close()
        listener.close()
        assert not thread.is_alive(), "the server did not end"


def wait_for(condition: Callable[[], bool], timeout_s: float = DEADLINE_S) -> None:
    end_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end_s, f"not within {timeout_s} s"
        time.sleep(0.005)


def post_bytes(path: str, body: bytes) -> bytes:
    """A request as it travels."""
    head = ("host: x", "content-type: application/json", f"content-length: {len(body)}", "", "")
    return f"POST {path} HTTP/1.1\r\n".encode() + "\r\n".join(head).encode() + body


def refused(response: httpx.Response, status: int = 400) -> dict[str, Any]:
    """The error of a refusal, which always has OpenAI's form."""
    assert response.status_code == status, response.text[:300]
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["message"]
    assert len(error["message"]) < 1000
    return error
