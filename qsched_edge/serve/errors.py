"""Errors of the HTTP endpoint, in the shape that clients of OpenAI's API read."""

from __future__ import annotations

from typing import Any

from qsched_runtime.errors import one_line

KINDS = {404: "not_found_error", 429: "rate_limit_error", 500: "server_error"}  # the others are the request's fault


class ApiError(Exception):
    """`status` of HTTP, the `param` at fault and a `code` for programs."""

    def __init__(self, status: int, message: str, param: str | None = None, code: str | None = None) -> None:
        super().__init__(one_line(message))
        self.status, self.param, self.code = status, param, code

    def json(self) -> dict[str, Any]:
        kind = KINDS.get(self.status, "invalid_request_error")
        return {"error": {"message": str(self), "type": kind, "param": self.param, "code": self.code}}
