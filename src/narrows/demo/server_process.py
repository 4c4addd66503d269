"""A server in a process of its own, as a user would start it: `narrows serve` on a free loopback port.

In: the words of the command. Out: its URL and the lines it printed. Leaving the context sends SIGTERM and waits.
"""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from types import TracebackType
from typing import IO

from narrows.errors import InternalError, NarrowsError
from narrows.serve.banner import URL_PREFIX

STOP_TIMEOUT_S = 20.0


class ServerFailed(NarrowsError):
    """The server process ended before it was ready; its own message stands above on stderr."""


class ServerProcess:
    """Use with `with`. `start_s`: from starting the process until it said it listens."""

    def __init__(self, words: Sequence[str]) -> None:
        self._words = list(words)
        self.lines: list[str] = []
        self.url = ""
        self.start_s = 0.0

    def __enter__(self) -> ServerProcess:
        began_s = time.perf_counter()
        command = [sys.executable, "-m", "narrows.cli", "serve", *self._words, "--host", "127.0.0.1", "--port", "0"]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, bufsize=1)
        assert self._process.stdout is not None
        try:
            self._await_url(self._process.stdout)
        except BaseException:
            self._process.kill()
            self._process.wait()
            raise
        self.start_s = time.perf_counter() - began_s
        # The pipe must not fill up, or the server would block in a print.
        threading.Thread(target=self._process.stdout.read, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.terminate()
        try:
            code = self._process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            code = -9
        if code != 0 and error is None:
            raise InternalError(f"the server ended with {code} after SIGTERM instead of 0")

    def _await_url(self, output: IO[str]) -> None:
        for line in output:
            self.lines.append(line.rstrip("\n"))
            if line.startswith(URL_PREFIX):
                self.url = line.removeprefix(URL_PREFIX).strip()
                return
        raise ServerFailed(f"the server did not start (exit code {self._process.wait()}); see its message above")
