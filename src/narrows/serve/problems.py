"""Errors as HTTP answers in the OpenAI form: {"error": {"message", "type", "param", "code"}}.

In: an exception of the narrows tree. Out: a Problem with its status. Knows nothing of routes or engines.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from starlette.responses import JSONResponse

# pydantic makes the API document from these, and on Python 3.11 it accepts only this TypedDict.
from typing_extensions import TypedDict

from narrows.errors import (
    ContextTooLong,
    InvalidRequest,
    NarrowsError,
    OutOfMemory,
    Overloaded,
    RequestAborted,
    ShortError,
)


class ErrorDetail(TypedDict):
    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(TypedDict):
    error: ErrorDetail


@dataclass(frozen=True, slots=True)
class Problem:
    """One refusal or failure, ready to be sent."""

    status: int
    message: str
    kind: str = "invalid_request_error"
    param: str | None = None
    code: str | None = None
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def body(self) -> ErrorBody:
        return {"error": {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}}

    def response(self) -> JSONResponse:
        return JSONResponse(self.body, status_code=self.status, headers=self.headers)


class ProblemError(NarrowsError):
    """Carries a Problem of the HTTP layer itself (body too large, unknown model, ...) up to the route."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.message)
        self.problem = problem


class UnsupportedField(InvalidRequest):
    """A field that is not known, or known to OpenAI's API but not honoured here."""


def problem_of(error: Exception) -> Problem:
    """The answer for an exception. Whatever is not of our tree is our fault and says no more than its
    class.
    """
    match error:
        case ProblemError():
            return error.problem
        case ContextTooLong():
            return Problem(400, str(error), param=error.param, code="context_length_exceeded")
        case UnsupportedField():
            return Problem(400, str(error), param=error.param, code="unsupported_parameter")
        case InvalidRequest():
            return Problem(400, str(error), param=error.param, code="invalid_value")
        case Overloaded():
            seconds = str(max(1, math.ceil(error.retry_after_s)))
            return Problem(
                429, str(error), "rate_limit_error", code="overloaded", headers={"retry-after": seconds}
            )
        case OutOfMemory():
            return Problem(
                503, str(error), "server_error", code="out_of_memory", headers={"retry-after": "1"}
            )
        case RequestAborted() | ShortError():
            return Problem(503, str(error), "server_error", code="unavailable", headers={"retry-after": "1"})
        case NarrowsError():
            return Problem(500, str(error), "server_error", code="internal_error")
    return Problem(
        500,
        f"this is a bug in Narrows: {type(error).__name__}; see the server's log",
        "server_error",
        code="internal_error",
    )
