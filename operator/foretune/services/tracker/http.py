"""The tracker's HTTP face: routes, rights, limits, and errors in words. Blocking work runs in threads."""

from __future__ import annotations

import asyncio
import functools
import json
import logging
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, TypeVar

from anyio import CapacityLimiter, to_thread
from pydantic import ValidationError
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from foretune import constants, contract
from foretune.adapters.http import wire
from foretune.api.v1alpha1 import parse
from foretune.errors import (
    ConflictError,
    ForbiddenError,
    ForetuneError,
    HistoryUnavailableError,
    InvalidInputError,
    NotFoundError,
    SpaceExhaustedError,
    UnavailableError,
)
from foretune.services.tracker.auth import UnknownCallerError
from foretune.services.tracker.kubeflow import read_status
from foretune.services.tracker.service import StalePodError

if TYPE_CHECKING:
    from pydantic import TypeAdapter

    from foretune.domain.history import JobRecord
    from foretune.services.tracker.auth import Authenticator, Identity
    from foretune.services.tracker.service import Reply, TrackerService

log = logging.getLogger(__name__)

T = TypeVar("T")
Handler = Callable[[Request], Awaitable[Response]]

OPERATOR_LIMIT: Final = 2 * 1024 * 1024
"""Bytes of a body the operator may send: a manifest (etcd takes 1.5 MiB) or an outcome with reports."""

BODY_S: Final = 10.0
"""Seconds a caller has to send its body."""

OPEN_LIMIT: Final = 256
"""Requests open at once; more are told to come back, before their bodies are read."""

THREADS: Final = 16
"""Threads for work with the database, which takes milliseconds."""

PROPOSAL_THREADS: Final = 32
"""Threads that wait for proposals, which take seconds: reports must not queue behind them."""

MESSAGE_LIMIT: Final = 32 * 1024
"""Characters of a job's closing message."""

RETRY_AFTER_S: Final = 1
"""Seconds after which a temporary refusal is worth another try."""


class TooLargeError(ForetuneError):
    """A body is larger than its caller may send (413)."""


class TooSlowError(ForetuneError):
    """A body did not arrive in time (408)."""


_STATUS: Final[list[tuple[type[ForetuneError], int, str]]] = [
    (UnknownCallerError, 401, "unknown_caller"),
    (ForbiddenError, 403, "forbidden"),
    (NotFoundError, 404, "not_found"),
    (SpaceExhaustedError, 409, "exhausted"),
    (wire.VersionError, 409, "contract_version"),
    (ConflictError, 409, "conflict"),
    (InvalidInputError, 422, "invalid"),
    (TooLargeError, 413, "too_large"),
    (TooSlowError, 408, "too_slow"),
    (UnavailableError, 503, "unavailable"),
]
"""What each error becomes; the first class that fits."""


def create_app(service: TrackerService, authenticator: Authenticator) -> Starlette:
    """Return the ASGI application of `docs/reference/tracker-api.md`."""
    face = _Face(service, authenticator)
    job, trial = "/v1/jobs/{uid}", "/v1/jobs/{uid}/trials/{index:int}"
    handlers = [
        ("POST", contract.REPORTS_PATH, face.reports),
        ("POST", f"{contract.KUBEFLOW_PATH}/{{uid}}/{{index:int}}", face.status),
        ("GET", "/v1/jobs", face.jobs),
        ("PUT", job, face.register),
        ("GET", job, face.job),
        ("GET", f"{job}/trials", face.trials),
        ("GET", f"{job}/proposals", face.proposals),
        ("PUT", f"{job}/proposals/{{index:int}}", face.propose),
        ("POST", f"{job}/close", face.close),
        ("GET", trial, face.trial),
        ("GET", f"{trial}/curve", face.curve),
        ("PUT", f"{trial}/attempts/{{number:int}}", face.attempt),
        ("POST", f"{trial}/outcome", face.outcome),
        ("POST", f"{trial}/stop", face.stop),
    ]
    gate = _Gate()
    return Starlette(
        routes=[
            Route(path, gate.guarded(handler), methods=[method])
            for method, path, handler in handlers
        ],
        exception_handlers={HTTPException: _no_route},
    )


async def _no_route(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    code = "not_found" if error.status_code == 404 else "method_not_allowed"  # noqa: PLR2004
    text = f"{request.method} {request.url.path}: {error.detail}"
    return JSONResponse({"error": text, "code": code}, error.status_code, headers=error.headers)


class _Gate:
    """Lets so many requests in at once, and turns errors into answers."""

    def __init__(self) -> None:
        self._open = 0

    def guarded(self, handler: Handler) -> Handler:
        async def endpoint(request: Request) -> Response:
            if self._open >= OPEN_LIMIT:
                busy = HistoryUnavailableError(f"{OPEN_LIMIT} requests are open already")
                return _error(busy, 503, "unavailable")
            self._open += 1
            try:
                return await handler(request)
            except StalePodError as error:
                return _error(error, 409, "stale_pod", action=contract.Action.STOP.value)
            except ForetuneError as error:
                for kind, status, code in _STATUS:
                    if isinstance(error, kind):
                        return _error(error, status, code)
                raise
            except ClientDisconnect:
                return Response(status_code=400)  # nobody is there to read it
            finally:
                self._open -= 1

        return endpoint


def _error(error: Exception, status: int, code: str, **more: str) -> JSONResponse:
    headers = {"Retry-After": str(RETRY_AFTER_S)} if status == 503 else {}  # noqa: PLR2004
    if status >= 500:  # noqa: PLR2004
        log.warning("%d %s: %s", status, code, error)
    body = {"error": str(error), "code": code, **more}
    return JSONResponse(body, status_code=status, headers=headers)


class _Face:
    """One method a route: who, what, answer."""

    def __init__(self, service: TrackerService, authenticator: Authenticator) -> None:
        self._service = service
        self._authenticator = authenticator

    @functools.cached_property
    def _threads(self) -> CapacityLimiter:
        return CapacityLimiter(THREADS)

    @functools.cached_property
    def _proposal_threads(self) -> CapacityLimiter:
        return CapacityLimiter(PROPOSAL_THREADS)

    async def _run(self, call: Callable[..., T], *arguments: Any, **named: Any) -> T:
        """Return what a blocking call returns, called in a thread."""
        work = functools.partial(call, *arguments, **named)
        return await to_thread.run_sync(work, limiter=self._threads)

    # ------------------------------------------------------------- for trials
    async def reports(self, request: Request) -> Response:
        identity, pod_uid = await self._pod(request)
        reports = wire.read_reports(await _body(request, contract.BODY_LIMIT))
        uid, index = wire.trial_of(reports[0])
        if identity.trial is not None and identity.trial != reports[0]["trial"]:
            raise ForbiddenError("the token is for another trial")
        return _told(await self._run(self._service.receive, uid, index, pod_uid, reports))

    async def status(self, request: Request) -> Response:
        """Take what the Trainer of `transformers` posts to Kubeflow Trainer."""
        identity, pod_uid = await self._pod(request)
        status = read_status(await _body(request, contract.BODY_LIMIT))
        uid, index = _trial(request)
        if identity.trial not in {None, f"{uid}/{index}"}:
            raise ForbiddenError("the token is for another trial")
        return _told(await self._run(self._service.receive_status, uid, index, pod_uid, status))

    # ----------------------------------------------------------- for the loop
    async def register(self, request: Request) -> Response:
        await self._operator(request)
        body = await _json(request)
        manifest = {
            "apiVersion": constants.API_VERSION,
            "kind": constants.KIND,
            "metadata": {
                "name": body.get("name"),
                "namespace": body.get("namespace"),
                "uid": request.path_params["uid"],
                "generation": body.get("generation", 1),
            },
            "spec": body.get("spec"),
        }
        job = await self._run(lambda: parse(manifest).to_domain())
        created = body.get("createdAt")
        if isinstance(created, int | float):
            job = replace(job, created_at=float(created))
        return _answer(wire.JOB, await self._run(self._service.register, job))

    async def propose(self, request: Request) -> Response:
        await self._operator(request)
        work = functools.partial(self._service.propose, *_trial(request))
        proposal = await to_thread.run_sync(work, limiter=self._proposal_threads)
        return _answer(wire.PROPOSAL, proposal)

    async def attempt(self, request: Request) -> Response:
        await self._operator(request)
        attempt = await _value(wire.ATTEMPT, request)
        uid, index = _trial(request)
        if attempt.number != request.path_params["number"]:
            raise InvalidInputError("number: must be the attempt of the path")
        await self._run(self._service.record_attempt, uid, index, attempt)
        return Response(status_code=204)

    async def outcome(self, request: Request) -> Response:
        await self._operator(request)
        outcome = await _value(wire.OUTCOME, request)
        if outcome.index != request.path_params["index"]:
            raise InvalidInputError("index: must be the trial of the path")
        uid, _ = _trial(request)
        return _answer(wire.TRIAL, await self._run(self._service.commit, uid, outcome))

    async def stop(self, request: Request) -> Response:
        await self._operator(request)
        rule = _text(await _json(request), "rule", 32)
        await self._run(self._service.request_stop, *_trial(request), rule=rule)
        return Response(status_code=204)

    async def close(self, request: Request) -> Response:
        await self._operator(request)
        body, uid = await _json(request), request.path_params["uid"]
        end = {
            "phase": _text(body, "phase", 16),
            "reason": _text(body, "reason", 64),
            "message": _text(body, "message", MESSAGE_LIMIT),
        }
        await self._run(self._service.close, uid, **end)
        return Response(status_code=204)

    # ------------------------------------------------------------ for readers
    async def jobs(self, request: Request) -> Response:
        identity = await self._caller(request)
        namespace, name = request.query_params.get("namespace"), request.query_params.get("name")
        found = await self._run(self._service.find_jobs, namespace=namespace, name=name)
        allowed = {
            ns: await self._run(self._authenticator.may_read, identity, ns)
            for ns in {record.namespace for record in found}
        }
        if namespace is not None and not found:
            await self._may_read(identity, namespace)
        return _answer(wire.JOBS, [record for record in found if allowed[record.namespace]])

    async def job(self, request: Request) -> Response:
        return _answer(wire.JOB, await self._readable(request))

    async def trials(self, request: Request) -> Response:
        record = await self._readable(request)
        return _answer(wire.TRIALS, await self._run(self._service.trials, record.uid))

    async def proposals(self, request: Request) -> Response:
        record = await self._readable(request)
        return _answer(wire.PROPOSALS, await self._run(self._service.proposals, record.uid))

    async def trial(self, request: Request) -> Response:
        record, (_, index) = await self._readable(request), _trial(request)
        return _answer(wire.TRIAL, await self._run(self._service.trial, record.uid, index))

    async def curve(self, request: Request) -> Response:
        record, (_, index) = await self._readable(request), _trial(request)
        return _answer(wire.POINTS, await self._run(self._service.curve, record.uid, index))

    # ---------------------------------------------------------------- helpers
    async def _caller(self, request: Request) -> Identity:
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not token.strip():
            raise UnknownCallerError("a bearer token is required: Authorization: Bearer <token>")
        return await self._run(self._authenticator.identify, token.strip())

    async def _pod(self, request: Request) -> tuple[Identity, str]:
        """Return the caller, and the pod that its token is bound to."""
        identity = await self._caller(request)
        if identity.pod_uid is None:
            raise ForbiddenError("only a trial's pod may report: the token is bound to no pod")
        return identity, identity.pod_uid

    async def _operator(self, request: Request) -> None:
        identity = await self._caller(request)
        if not identity.operator:
            raise ForbiddenError(f"{identity.username} is not the operator")

    async def _readable(self, request: Request) -> JobRecord:
        identity = await self._caller(request)
        record = await self._run(self._service.job, request.path_params["uid"])
        await self._may_read(identity, record.namespace)
        return record

    async def _may_read(self, identity: Identity, namespace: str) -> None:
        if not await self._run(self._authenticator.may_read, identity, namespace):
            message = f"{identity.username} may not get tuningjobs in namespace {namespace}"
            raise ForbiddenError(message)


def _told(reply: Reply) -> Response:
    body = {"ack": reply.ack, "action": reply.action.value, "reason": reply.reason}
    return JSONResponse({**body, "interval": reply.interval})


def _trial(request: Request) -> tuple[str, int]:
    """Return the job's uid and the trial's index in the path."""
    index = int(request.path_params["index"])
    if index > wire.LARGEST:
        raise NotFoundError(f"there is no trial {index}")
    return request.path_params["uid"], index


async def _body(request: Request, limit: int) -> bytes:
    """Return the body; stops reading where it is too large or too slow."""
    parts: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(BODY_S):
            async for part in request.stream():
                size += len(part)
                if size > limit:
                    raise TooLargeError(f"body: must be at most {limit} bytes")
                parts.append(part)
    except TimeoutError:
        raise TooSlowError(f"body: must arrive within {BODY_S:g} s") from None
    return b"".join(parts)


async def _json(request: Request) -> dict[str, Any]:
    try:
        value = json.loads(await _body(request, OPERATOR_LIMIT))
    except ValueError:
        raise InvalidInputError("body: must be JSON") from None
    if not isinstance(value, dict):
        raise InvalidInputError("body: must be a JSON object")
    return value


async def _value(adapter: TypeAdapter[Any], request: Request) -> Any:
    try:
        return adapter.validate_json(await _body(request, OPERATOR_LIMIT))
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise InvalidInputError(f"{where or 'body'}: {first['msg']}") from None


def _text(body: dict[str, Any], name: str, limit: int) -> str:
    value = body.get(name)
    if not isinstance(value, str) or len(value) > limit:
        raise InvalidInputError(f"{name}: must be a text of at most {limit} characters")
    return value


def _answer(adapter: TypeAdapter[Any], value: object) -> Response:
    return Response(adapter.dump_json(value), media_type="application/json")
