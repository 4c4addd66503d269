"""A server in a process of its own, as a user would start it: `narrows serve` on a free loopback port.

In: the words of the command. Out: its URL and the lines it printed. Leaving the context sends SIGTERM and
waits.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from types import TracebackType
from typing import IO

from narrows.errors import InternalError, NarrowsError
from narrows.serve.banner import URL_PREFIX
from narrows.serve.config import API_KEY_VARIABLE

STOP_TIMEOUT_S = 20.0


class ServerFailed(NarrowsError):
    """The server process ended before it was ready; its own message stands above on stderr."""

    def __init__(self, exit_code: int) -> None:
        super().__init__(f"the server did not start (exit code {exit_code}); see its message above")
        self.exit_code = exit_code


class ServerProcess:
    """Use with `with`. `began_s`: when the process was started, by time.perf_counter.

    `has_own_group`: the terminal's Ctrl-C does not reach the server, only who started it.
    """

    def __init__(self, words: Sequence[str], *, has_own_group: bool = False) -> None:
        self._words = list(words)
        self._group = 0 if has_own_group else None
        self.lines: list[str] = []
        self.url = ""
        self.began_s = 0.0

    def __enter__(self) -> ServerProcess:
        command = [
            sys.executable,
            "-m",
            "narrows.cli",
            "serve",
            *self._words,
            "--host",
            "127.0.0.1",
            "--port",
            "0",
        ]
        # A key meant for the user's own server would lock the demo out of its one.
        environment = {name: value for name, value in os.environ.items() if name != API_KEY_VARIABLE}
        self.began_s = time.perf_counter()
        self._process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
            env=environment,
            process_group=self._group,
        )
        assert self._process.stdout is not None
        try:
            self._await_url(self._process.stdout)
        except BaseException:
            self._process.kill()
            self._process.wait()
            self._process.stdout.close()
            raise
        # The pipe must not fill up, or the server would block in a print.
        threading.Thread(target=_read_to_end, args=(self._process.stdout,), daemon=True).start()
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
        raise ServerFailed(self._process.wait())


def _read_to_end(output: IO[str]) -> None:
    with output:
        output.read()
