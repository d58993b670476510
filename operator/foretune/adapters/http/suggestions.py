"""The suggestion service over HTTP: wire format of a request, and the client.

The space travels as the mapping of the manifest; of a trial travels what designers look at; past tasks
travel once (`tasks`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import httpx
from pydantic import Field, JsonValue, ValidationError

from foretune.adapters.http.tasks import (
    MAX_TASKS,
    Named,
    WireModel,
    WireObjective,
    WireTask,
    WireTrial,
    objective_to_wire,
    task_to_wire,
    trial_from_wire,
    trial_to_wire,
)
from foretune.api.space import parse_space, render_space
from foretune.domain.job import Objective, PriorMode
from foretune.errors import (
    InvalidInputError,
    SpaceExhaustedError,
    SuggestionUnavailableError,
)
from foretune.ports import SuggestionAnswer, SuggestionRequest

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from foretune.adapters.http.tasks import TaskCache
    from foretune.domain.history import SourceTask

SUGGESTIONS_PATH: Final = "/v1/suggestions"
"""Path to which a request is POSTed."""

REQUEST_LIMIT: Final = 16 * 1024 * 1024
"""Bytes of a request: some 30,000 trials."""

CODE_EXHAUSTED: Final = "exhausted"
"""Error code, with status 409, when every configuration was proposed."""

CODE_MISSING: Final = "tasks_missing"
"""Error code, with status 409, when the past tasks that `missing` names must be sent along."""

CODE_INVALID: Final = "invalid"
"""Error code, with status 422 (or 400 for a body that is no JSON), of a request that can't be answered."""

CODE_UNAVAILABLE: Final = "unavailable"
"""Error code, with status 503, of a service that is not ready or shutting down."""

MARGIN_S: Final = 5.0
"""Seconds the client waits beyond the request's own deadline, within which the service answers."""

ROUNDS: Final = 4
"""Times that a request is sent at most: several processes may answer, each lacking other tasks."""


class WireRequest(WireModel):
    """A request for one configuration."""

    job_uid: str
    index: int = Field(ge=0)
    space: dict[str, JsonValue]
    objective: WireObjective
    algorithm: str
    seed: int
    trials: list[WireTrial] = Field(default=[])
    context: dict[str, str] = Field(default={})
    timeout_s: float = Field(default=30.0, gt=0, le=600)
    initial: int | None = Field(default=None, ge=0)
    prior: PriorMode = PriorMode.AUTO
    budget: float | None = Field(default=None, ge=0, le=1)
    history: list[str] = Field(default=[], max_length=MAX_TASKS)
    """Digests of the past tasks."""
    tasks: list[WireTask] = Field(default=[], max_length=MAX_TASKS)
    """Those of them that were asked for."""


class WireAnswer(WireModel):
    """One configuration and its audit."""

    params: dict[str, bool | int | float | str]
    proposer: str
    detail: dict[str, JsonValue] = Field(default={})


def to_wire(
    request: SuggestionRequest, history: Sequence[str] = (), tasks: Sequence[SourceTask] = ()
) -> dict[str, Any]:
    """Return a request as JSON: its past tasks by digest, and those that are sent along."""
    wire = WireRequest(
        job_uid=request.job_uid,
        index=request.index,
        space=render_space(request.space),
        objective=objective_to_wire(request.objective),
        algorithm=str(request.algorithm),
        seed=request.seed,
        trials=[trial_to_wire(trial) for trial in request.trials],
        context=dict(request.context),
        timeout_s=request.timeout_s,
        initial=request.initial,
        prior=request.prior,
        budget=request.budget,
        history=list(history),
        tasks=[task_to_wire(task) for task in tasks],
    )
    return wire.model_dump(mode="json", exclude_defaults=True)


def from_wire(body: bytes, tasks: TaskCache) -> SuggestionRequest:
    """Return the request in a JSON body, with its past tasks out of `tasks`.

    Raises `InvalidInputError` naming what is wrong in it, `TasksMissingError` for tasks to be sent along.
    """
    try:
        wire = WireRequest.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise InvalidInputError(f"{where or 'body'}: {first['msg']}") from None
    return SuggestionRequest(
        job_uid=wire.job_uid,
        index=wire.index,
        space=parse_space(wire.space, "space"),
        objective=Objective(**dict(wire.objective)),
        algorithm=wire.algorithm,
        seed=wire.seed,
        trials=[trial_from_wire(wire.job_uid, trial) for trial in wire.trials],
        context=wire.context,
        timeout_s=wire.timeout_s,
        initial=wire.initial,
        prior=wire.prior,
        budget=wire.budget,
        history=tasks.history(wire.history, wire.tasks),
    )


def answer_to_wire(answer: SuggestionAnswer) -> dict[str, Any]:
    """Return an answer as JSON."""
    return {
        "params": dict(answer.params),
        "proposer": answer.proposer,
        "detail": dict(answer.detail),
    }


class HttpSuggestions:
    """Implements `ports.Suggestions` against the suggestion service; may be called from many threads."""

    def __init__(self, url: str, *, transport: httpx.BaseTransport | None = None) -> None:
        """Talk to the service at `url`; `transport` replaces the network in tests."""
        # The service is in this pod or this cluster: proxy variables are for the world outside.
        self._client = httpx.Client(base_url=url, transport=transport, trust_env=False)
        self._named = Named()

    def suggest(self, request: SuggestionRequest) -> SuggestionAnswer:
        """Return the next configuration.

        Raises `SpaceExhaustedError`, `InvalidInputError` for a request the service refuses,
        `SuggestionUnavailableError` for anything that may get better.
        """
        named = self._named.names(request.history)
        wanted: list[str] = []
        for _ in range(ROUNDS):
            response = self._post(request, named, wanted)
            missing = _missing(response)
            if not missing:
                break
            # Another process may answer the next time: it gets what any of them has asked for.
            wanted += [name for name in missing if name in named and name not in wanted]
        if response.status_code == httpx.codes.OK:
            return _answer(response)
        raise _error(response)

    def _post(
        self, request: SuggestionRequest, named: Mapping[str, SourceTask], wanted: Sequence[str]
    ) -> httpx.Response:
        try:
            return self._client.post(
                SUGGESTIONS_PATH,
                json=to_wire(request, list(named), [named[name] for name in wanted]),
                timeout=httpx.Timeout(MARGIN_S, read=request.timeout_s + MARGIN_S),
            )
        except httpx.HTTPError as error:
            raise SuggestionUnavailableError(
                f"suggestion service at {self._client.base_url}: {type(error).__name__}: {error}"
            ) from error

    def close(self) -> None:
        """Release connections."""
        self._client.close()


def _answer(response: httpx.Response) -> SuggestionAnswer:
    try:
        wire = WireAnswer.model_validate_json(response.content)
    except ValidationError as error:
        raise SuggestionUnavailableError(
            f"suggestion service: answered something that is no suggestion: {error}"
        ) from error
    return SuggestionAnswer(params=wire.params, proposer=wire.proposer, detail=wire.detail)


def _missing(response: httpx.Response) -> list[str]:
    """Return the tasks that the service asks for."""
    if response.status_code != httpx.codes.CONFLICT:
        return []
    try:
        body: Mapping[str, Any] = response.json()
        return [str(name) for name in body["missing"]] if body["code"] == CODE_MISSING else []
    except (ValueError, KeyError, TypeError):
        return []


def _error(response: httpx.Response) -> Exception:
    try:
        body: Mapping[str, Any] = response.json()
        message, code = str(body["error"]), str(body["code"])
    except (ValueError, KeyError, TypeError):
        message, code = response.text[:200], ""
    if code == CODE_EXHAUSTED:
        return SpaceExhaustedError(message)
    if code == CODE_INVALID:
        return InvalidInputError(message)
    return SuggestionUnavailableError(f"suggestion service: HTTP {response.status_code}: {message}")
