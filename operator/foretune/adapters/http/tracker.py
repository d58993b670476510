"""`HttpTracker`: the tracker over HTTP, for the operator and for the command line."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final, TypeVar

import httpx
from pydantic import TypeAdapter, ValidationError

from foretune.adapters.http import wire
from foretune.errors import (
    ConflictError,
    ForbiddenError,
    HistoryUnavailableError,
    InvalidInputError,
    NotFoundError,
    SpaceExhaustedError,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from foretune.domain.history import JobRecord, Proposal
    from foretune.domain.job import Job
    from foretune.domain.trial import AttemptRecord, Outcome, Point, Trial

CONNECT_S: Final = 5.0
"""Seconds to connect."""

READ_S: Final = 30.0
"""Seconds to answer anything but a proposal."""

PROPOSE_MARGIN_S: Final = 30.0
"""Seconds beyond `search.timeoutSeconds`, within which the tracker falls back by itself."""

DEFAULT_TIMEOUT_S: Final = 30.0
"""`search.timeoutSeconds` of a job that this client has not registered."""

T = TypeVar("T")

CODE_EXHAUSTED: Final = "exhausted"
"""Error code, with status 409, when every configuration was proposed."""


class HttpTracker:
    """Implements `ports.Tracker`, and reads for the command line."""

    def __init__(self, base_url: str, token: Callable[[], str]) -> None:
        """Take the tracker's URL and where its token comes from, asked for each request."""
        self._token = token
        self._timeouts_s: dict[str, float] = {}
        self._url = base_url
        self._client = httpx.Client(
            base_url=base_url, timeout=httpx.Timeout(READ_S, connect=CONNECT_S), trust_env=False
        )

    def disconnect(self) -> None:
        """Close connections."""
        self._client.close()

    # ---------------------------------------------------------- for the loop
    def register(self, job: Job) -> JobRecord:
        """Create or update the job's row."""
        spec = job.spec
        self._timeouts_s[job.uid] = spec.search.timeout_s
        body = {
            "namespace": job.key.namespace,
            "name": job.key.name,
            "generation": job.generation,
            "createdAt": job.created_at,
            "spec": spec.manifest,
        }
        return self._read(wire.JOB, "PUT", f"/v1/jobs/{job.uid}", body)

    def trials(self, job_uid: str) -> Sequence[Trial]:
        """Return every trial by index; raises `NotFoundError` for an unknown job."""
        return self._read(wire.TRIALS, "GET", f"/v1/jobs/{job_uid}/trials")

    def propose(self, job_uid: str, index: int) -> Proposal:
        """Return the proposal of trial `index`; raises `SpaceExhaustedError`."""
        path = f"/v1/jobs/{job_uid}/proposals/{index}"
        limit = self._timeouts_s.get(job_uid, DEFAULT_TIMEOUT_S) + PROPOSE_MARGIN_S
        return self._read(wire.PROPOSAL, "PUT", path, timeout_s=limit)

    def record_attempt(self, job_uid: str, index: int, attempt: AttemptRecord) -> None:
        """Record what is known of an attempt. Idempotent."""
        path = f"/v1/jobs/{job_uid}/trials/{index}/attempts/{attempt.number}"
        self._send("PUT", path, wire.ATTEMPT.dump_python(attempt, mode="json"))

    def commit(self, job_uid: str, outcome: Outcome) -> Trial:
        """Commit the end of an attempt. Idempotent."""
        path = f"/v1/jobs/{job_uid}/trials/{outcome.index}/outcome"
        clean = replace(outcome, records=wire.recovered(outcome.records))
        body = wire.OUTCOME.dump_python(clean, mode="json")
        return self._read(wire.TRIAL, "POST", path, body)

    def request_stop(self, job_uid: str, index: int, *, rule: str) -> None:
        """Ask a running trial to stop. Idempotent."""
        self._send("POST", f"/v1/jobs/{job_uid}/trials/{index}/stop", {"rule": rule})

    def close(self, job_uid: str, *, phase: str, reason: str, message: str) -> None:
        """Record how the job ended, or that it was deleted."""
        body = {"phase": phase, "reason": reason, "message": message}
        self._send("POST", f"/v1/jobs/{job_uid}/close", body)
        self._timeouts_s.pop(job_uid, None)

    # ------------------------------------------------------------ for readers
    def find_jobs(
        self, *, namespace: str | None = None, name: str | None = None
    ) -> Sequence[JobRecord]:
        """Return matching jobs, newest first."""
        wanted = {"namespace": namespace, "name": name}
        params = {key: value for key, value in wanted.items() if value is not None}
        return self._read(wire.JOBS, "GET", "/v1/jobs", params=params)

    def job(self, uid: str) -> JobRecord:
        """Return a job; raises `NotFoundError`."""
        return self._read(wire.JOB, "GET", f"/v1/jobs/{uid}")

    def trial(self, job_uid: str, index: int) -> Trial:
        """Return one trial; raises `NotFoundError`."""
        return self._read(wire.TRIAL, "GET", f"/v1/jobs/{job_uid}/trials/{index}")

    def proposals(self, job_uid: str) -> Sequence[Proposal]:
        """Return every proposal of the job by index."""
        return self._read(wire.PROPOSALS, "GET", f"/v1/jobs/{job_uid}/proposals")

    def curve(self, job_uid: str, index: int) -> Sequence[Point]:
        """Return the trial's points in order of epoch."""
        return self._read(wire.POINTS, "GET", f"/v1/jobs/{job_uid}/trials/{index}/curve")

    # ---------------------------------------------------------------- helpers
    def _read(
        self,
        adapter: TypeAdapter[T],
        method: str,
        path: str,
        body: object = None,
        *,
        params: Mapping[str, str] | None = None,
        timeout_s: float = READ_S,
    ) -> T:
        response = self._send(method, path, body, params=params, timeout_s=timeout_s)
        try:
            return adapter.validate_json(response.content)
        except ValidationError as error:
            message = f"{method} {self._url}{path}: the answer is not what this version expects"
            raise HistoryUnavailableError(f"{message}: {error.errors()[0]['msg']}") from error

    def _send(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        params: Mapping[str, str] | None = None,
        timeout_s: float = READ_S,
    ) -> httpx.Response:
        try:
            response = self._client.request(
                method,
                path,
                json=body,
                params=dict(params or {}),
                headers={"Authorization": f"Bearer {self._token()}"},
                timeout=httpx.Timeout(timeout_s, connect=CONNECT_S),
            )
        except (httpx.HTTPError, OSError) as error:
            raise HistoryUnavailableError(f"{self._url}: {error!r}") from error
        if response.is_error:
            raise _error(response, f"{method} {path}")
        return response


def _error(response: httpx.Response, what: str) -> Exception:
    try:
        answer = response.json()
        message, code = str(answer["error"]), str(answer.get("code", ""))
    except (ValueError, KeyError, TypeError):
        message, code = response.text[:200], ""
    status = response.status_code
    text = f"{what}: {message}"
    if status in {401, 403}:
        return ForbiddenError(text)
    if status == httpx.codes.NOT_FOUND:
        return NotFoundError(message)
    if status == httpx.codes.CONFLICT:
        return SpaceExhaustedError(message) if code == CODE_EXHAUSTED else ConflictError(message)
    if status in {429, 500, 502, 503, 504}:
        return HistoryUnavailableError(f"{text} ({status})")
    return InvalidInputError(f"{text} ({status})")
