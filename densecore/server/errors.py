"""Errors as clients of OpenAI's API expect them: ``{"error": {"message", "type", "param", "code"}}``."""

from __future__ import annotations

import math
import re
from typing import Any

from densecore.config import GenerationConfig
from densecore.exceptions import (
    DenseCoreError,
    InvalidConfigError,
    ModelLoadError,
    QueueFullError,
    TimeoutError,
    UnsupportedFeatureError,
)

__all__ = ["ApiError", "bad_request", "context_exceeded", "from_engine", "model_not_found", "unavailable"]

TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    405: "invalid_request_error",
    408: "timeout_error",
    409: "conflict_error",
    413: "invalid_request_error",
    429: "rate_limit_error",
    501: "not_implemented_error",
    503: "unavailable_error",
}


class ApiError(Exception):
    """An answer that is an error. `type` follows from the status."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, message, param, code
        self.retry_after = retry_after

    @property
    def headers(self) -> dict[str, str]:
        headers = {}
        if self.retry_after is not None:
            headers["Retry-After"] = str(max(1, math.ceil(self.retry_after)))
        if self.status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        return headers

    @property
    def body(self) -> dict[str, Any]:
        kind = TYPES.get(self.status, "server_error" if self.status >= 500 else "invalid_request_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}


def bad_request(message: str, param: str | None = None, code: str | None = None) -> ApiError:
    return ApiError(400, message, param=param, code=code)


def model_not_found(name: str, known: list[str]) -> ApiError:
    """404; tells which models there are."""
    there = ", ".join(known) or "none"
    return ApiError(404, f"The model {name!r:.200} does not exist here; there are: {there}", code="model_not_found")


def unavailable(message: str, retry_after: float = 2.0) -> ApiError:
    return ApiError(503, message, retry_after=retry_after)


def context_exceeded(num_tokens: int, max_model_len: int, param: str = "messages") -> ApiError:
    """In the words by which clients recognise it."""
    message = (
        f"This model's maximum context length is {max_model_len} tokens, and the prompt has {num_tokens}: "
        "shorten it, so that room is left for the answer"
    )
    return bad_request(message, param, "context_length_exceeded")


def from_engine(error: Exception, retry_after: float = 1.0) -> ApiError:
    """What an exception of the engine means to a client."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, QueueFullError):
        return ApiError(429, str(error), code="queue_full", retry_after=retry_after)
    if isinstance(error, TimeoutError):
        return ApiError(408, str(error), code="timeout")
    if isinstance(error, UnsupportedFeatureError):
        return ApiError(501, str(error), code="not_implemented")
    if isinstance(error, InvalidConfigError):
        return bad_request(str(error), _named_field(str(error)))
    if isinstance(error, ModelLoadError):
        return ApiError(500, str(error), code="model_load_error")
    if isinstance(error, DenseCoreError):
        return ApiError(500, str(error), code="inference_error")
    return ApiError(500, "the server failed; its log says how, under this request's id", code="internal_error")


def _named_field(message: str) -> str | None:
    """The field that a message of `GenerationConfig` begins with, as clients call it."""
    word = re.match(r"(?:each of |a token id of )?(\w+)", message)
    if word is None or word[1] not in GenerationConfig.names():
        return None
    return {"stop_sequences": "stop", "json_schema": "response_format"}.get(word[1], word[1])
