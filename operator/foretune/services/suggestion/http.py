"""The HTTP face of the suggestion service. Computations run in threads, never on the event loop."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.responses import JSONResponse
from starlette.routing import Route

from foretune.adapters.http.suggestions import (
    CODE_EXHAUSTED,
    CODE_INVALID,
    CODE_MISSING,
    CODE_UNAVAILABLE,
    REQUEST_LIMIT,
    SUGGESTIONS_PATH,
    answer_to_wire,
    from_wire,
)
from foretune.adapters.http.tasks import TaskCache, TasksMissingError
from foretune.errors import InvalidInputError, SpaceExhaustedError, UnavailableError

if TYPE_CHECKING:
    from starlette.requests import Request

    from foretune.services.suggestion.service import SuggestionService


class TooLargeError(InvalidInputError):
    """A body is larger than `REQUEST_LIMIT`."""


def create_app(service: SuggestionService) -> Starlette:
    """Return the ASGI application: `POST /v1/suggestions`, `GET /healthz`, `GET /readyz`."""
    tasks = TaskCache()

    async def suggestions(request: Request) -> JSONResponse:
        try:
            body = await _body(request)
            answer = await run_in_threadpool(lambda: service.suggest(from_wire(body, tasks)))
        except TasksMissingError as error:
            return _error(409, CODE_MISSING, error, missing=list(error.missing))
        except SpaceExhaustedError as error:
            return _error(409, CODE_EXHAUSTED, error)
        except TooLargeError as error:
            return _error(413, CODE_INVALID, error)
        except InvalidInputError as error:
            return _error(422, CODE_INVALID, error)
        except UnavailableError as error:
            return _error(503, CODE_UNAVAILABLE, error)
        return JSONResponse(answer_to_wire(answer))

    async def healthz(_: Request) -> JSONResponse:
        return JSONResponse({"status": "ok"})

    async def readyz(_: Request) -> JSONResponse:
        if service.ready:
            return JSONResponse({"status": "ready"})
        return _error(503, CODE_UNAVAILABLE, UnavailableError("warming up"))

    return Starlette(
        routes=[
            Route(SUGGESTIONS_PATH, suggestions, methods=["POST"]),
            Route("/healthz", healthz),
            Route("/readyz", readyz),
        ]
    )


async def _body(request: Request) -> bytes:
    parts: list[bytes] = []
    size = 0
    async for part in request.stream():
        size += len(part)
        if size > REQUEST_LIMIT:
            raise TooLargeError(f"body: must be at most {REQUEST_LIMIT} bytes")
        parts.append(part)
    return b"".join(parts)


def _error(status: int, code: str, error: Exception, **more: list[str]) -> JSONResponse:
    return JSONResponse({"error": str(error), "code": code, **more}, status_code=status)
