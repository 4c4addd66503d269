"""Reads a request body within its limits of size and time.

In: a Starlette request. Out: the bytes, or a ProblemError (413, 408). A body that is too large is read to
its end within reason but not kept, because a client that is still writing when the connection closes never
sees why.
"""

from __future__ import annotations

import asyncio

from starlette.requests import Request

from narrows.serve.problems import Problem, ProblemError

DISCARD_FACTOR = 4  # times the limit is read and thrown away before the connection is closed


async def read_body(request: Request, *, max_bytes: int, timeout_s: float) -> bytes:
    """Counts chunks as they come: a missing or lying content-length changes nothing."""
    declared = request.headers.get("content-length", "0")
    if declared.isdigit() and int(declared) > DISCARD_FACTOR * max_bytes:
        raise too_large(max_bytes)
    try:
        async with asyncio.timeout(timeout_s):
            return await _collect(request, max_bytes)
    except TimeoutError:
        message = f"the body did not arrive within {timeout_s:g} s; send it faster"
        raise ProblemError(
            Problem(408, message, code="body_timeout", headers={"connection": "close"})
        ) from None


async def _collect(request: Request, max_bytes: int) -> bytes:
    chunks: list[bytes] = []
    num_bytes = 0
    async for chunk in request.stream():
        num_bytes += len(chunk)
        if num_bytes <= max_bytes:
            chunks.append(chunk)
        else:
            chunks.clear()
        if num_bytes > DISCARD_FACTOR * max_bytes:
            break
    if num_bytes > max_bytes:
        raise too_large(max_bytes)
    return b"".join(chunks)


def too_large(max_bytes: int) -> ProblemError:
    message = f"the body is larger than the {max_bytes} bytes this server takes; send less"
    return ProblemError(Problem(413, message, code="body_too_large", headers={"connection": "close"}))
