"""`narrows bench MODEL`: our own server as a child for as long as the bench lasts.

In: the model's words and options of `narrows serve`. Out: its URL. Importing the demo's ServerProcess is the
one way in which the bench touches what lies outside the layers; of the server it knows nothing but its URL.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

from narrows.bench.stopping import ending_like_ctrl_c
from narrows.errors import NarrowsError


class OwnServerFailed(NarrowsError):
    """The server has said why on stderr; `exit_code` is its own."""

    def __init__(self, exit_code: int) -> None:
        super().__init__(f"the server did not start (exit code {exit_code}); see its message above")
        self.exit_code = exit_code


@contextmanager
def own_server(words: Sequence[str]) -> Iterator[str]:
    """The URL of a ready server. Raises OwnServerFailed where it did not start."""
    from narrows.demo.server_process import ServerFailed, ServerProcess
    from narrows.demo.sse_client import wait_until_ready

    with ExitStack() as stack:
        stack.enter_context(ending_like_ctrl_c())
        try:
            # Ctrl-C ends the load; the server must still answer, and end when the bench says so.
            server = stack.enter_context(ServerProcess(words, has_own_group=True))
        except ServerFailed as error:
            raise OwnServerFailed(error.exit_code) from None
        wait_until_ready(server.url)
        yield server.url
