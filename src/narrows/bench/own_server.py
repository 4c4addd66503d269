"""`narrows bench MODEL`: our own server as a child for as long as the bench lasts.

In: the model's words and options of `narrows serve`. Out: its URL. Importing the demo's ServerProcess is the
one way in which the bench touches what lies outside the layers; of the server it knows nothing but its URL.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager


@contextmanager
def own_server(words: Sequence[str]) -> Iterator[str]:
    """The URL of a ready server. Raises ServerFailed where it did not start (its message stands on
    stderr).
    """
    from narrows.demo.server_process import ServerProcess
    from narrows.demo.sse_client import wait_until_ready

    with ServerProcess(words) as server:
        wait_until_ready(server.url)
        yield server.url
