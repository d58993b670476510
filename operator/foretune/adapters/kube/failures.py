"""What an answer of the API server means for the caller: the one place that reads status codes.

The class decides whether to try again; the message is the server's own, with the request in front.
"""

from __future__ import annotations

import json
from http import HTTPStatus
from typing import Final

from foretune.errors import (
    ClusterUnavailableError,
    ConflictError,
    ForbiddenError,
    ForetuneError,
    InvalidInputError,
    InvalidJobError,
    NotFoundError,
    Problem,
    QuotaExceededError,
)

QUOTA_MARK: Final = "exceeded quota"
"""Words of the quota admission plugin, which answers 403 like any refusal."""

_TEMPORARY: Final = frozenset(
    {
        HTTPStatus.UNAUTHORIZED,
        HTTPStatus.REQUEST_TIMEOUT,
        HTTPStatus.GONE,
        HTTPStatus.TOO_MANY_REQUESTS,
    }
)
"""401: tokens are rotated, and read anew. 410: a list or watch begins anew."""

_REFUSED: Final = frozenset(
    {
        HTTPStatus.BAD_REQUEST,
        HTTPStatus.FORBIDDEN,
        HTTPStatus.NOT_FOUND,
        HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
        HTTPStatus.UNPROCESSABLE_ENTITY,
    }
)
"""Answers to a new Job that are the template's or the namespace's fault."""

_KINDS: Final[dict[int, type[ForetuneError]]] = {
    HTTPStatus.FORBIDDEN: ForbiddenError,
    HTTPStatus.NOT_FOUND: NotFoundError,
    HTTPStatus.CONFLICT: ConflictError,
}
"""Errors of the other answers; what is not here is `InvalidInputError`: the request is wrong."""


def server_message(body: bytes) -> str:
    """Return the message of a `Status` object, or the start of any other text."""
    text = body.decode(errors="replace")
    try:
        answer = json.loads(text)
    except ValueError:
        return text[:500].strip()
    message = answer.get("message") if isinstance(answer, dict) else None
    return str(message) if message else text[:500]


def failure(request: str, status: int, body: bytes, *, creates_job: bool = False) -> ForetuneError:
    """Return the error for an answer of `status` other than 2xx to `request` (`POST /apis/...`).

    `creates_job` says that the body was a trial's Job: then a refusal is the template's fault.
    """
    message = server_message(body)
    told = f"{request}: {status}: {message}"
    if status == HTTPStatus.FORBIDDEN and QUOTA_MARK in message:
        return QuotaExceededError(message)
    if status in _TEMPORARY or status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return ClusterUnavailableError(told)
    if creates_job and status in _REFUSED:
        return InvalidJobError([Problem("spec.trial", f"the cluster refuses its Job: {message}")])
    return _KINDS.get(status, InvalidInputError)(told)
