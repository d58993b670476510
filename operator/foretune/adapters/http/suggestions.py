"""The suggestion service over HTTP: wire format of a request, and the client.

The space travels as the mapping of the manifest; of a trial travels what designers look at.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import httpx
from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError

from foretune.api.space import parse_space, render_space
from foretune.domain.job import Goal, Objective, Reduce
from foretune.domain.trial import EndReason, Trial, TrialState
from foretune.errors import (
    InvalidInputError,
    SpaceExhaustedError,
    SuggestionUnavailableError,
)
from foretune.ports import SuggestionAnswer, SuggestionRequest

if TYPE_CHECKING:
    from collections.abc import Mapping

SUGGESTIONS_PATH: Final = "/v1/suggestions"
"""Path to which a request is POSTed."""

REQUEST_LIMIT: Final = 16 * 1024 * 1024
"""Bytes of a request: some 30,000 trials."""

CODE_EXHAUSTED: Final = "exhausted"
"""Error code, with status 409, when every configuration was proposed."""

CODE_INVALID: Final = "invalid"
"""Error code, with status 422 (or 400 for a body that is no JSON), of a request that can't be answered."""

CODE_UNAVAILABLE: Final = "unavailable"
"""Error code, with status 503, of a service that is not ready or shutting down."""

MARGIN_S: Final = 5.0
"""Seconds the client waits beyond the request's own deadline, within which the service answers."""


class _Wire(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class WireObjective(_Wire):
    """The objective."""

    metric: str
    goal: Goal = Goal.MAXIMIZE
    target: float | None = None
    reduce: Reduce = Reduce.BEST


class WireTrial(_Wire):
    """What designers look at in a trial."""

    index: int = Field(ge=0)
    params: dict[str, bool | int | float | str]
    state: TrialState
    value: float | None = None
    value_sd: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    reason: EndReason | None = None
    nonfinite: bool = False
    epochs: float = 0.0
    cpu_s: float | None = None
    gpu_s: float = 0.0
    cost: float | None = None
    proposer: str = ""


class WireRequest(_Wire):
    """A request for one configuration."""

    job_uid: str
    index: int = Field(ge=0)
    space: dict[str, JsonValue]
    objective: WireObjective
    algorithm: str
    seed: int
    trials: list[WireTrial] = []
    context: dict[str, str] = {}
    timeout_s: float = Field(default=30.0, gt=0, le=600)
    initial: int | None = Field(default=None, ge=0)


class WireAnswer(_Wire):
    """One configuration and its audit."""

    params: dict[str, bool | int | float | str]
    proposer: str
    detail: dict[str, JsonValue] = {}


def to_wire(request: SuggestionRequest) -> dict[str, Any]:
    """Return a request as JSON."""
    wire = WireRequest(
        job_uid=request.job_uid,
        index=request.index,
        space=render_space(request.space),
        objective=WireObjective(
            metric=request.objective.metric,
            goal=request.objective.goal,
            target=request.objective.target,
            reduce=request.objective.reduce,
        ),
        algorithm=str(request.algorithm),
        seed=request.seed,
        trials=[_trial_to_wire(trial) for trial in request.trials],
        context=dict(request.context),
        timeout_s=request.timeout_s,
        initial=request.initial,
    )
    return wire.model_dump(mode="json", exclude_defaults=True)


def from_wire(body: bytes) -> SuggestionRequest:
    """Return the request in a JSON body; raises `InvalidInputError` naming what is wrong in it."""
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
        trials=[_trial_from_wire(wire.job_uid, trial) for trial in wire.trials],
        context=wire.context,
        timeout_s=wire.timeout_s,
        initial=wire.initial,
    )


def answer_to_wire(answer: SuggestionAnswer) -> dict[str, Any]:
    """Return an answer as JSON."""
    return {
        "params": dict(answer.params),
        "proposer": answer.proposer,
        "detail": dict(answer.detail),
    }


def _trial_to_wire(trial: Trial) -> WireTrial:
    return WireTrial(**{name: getattr(trial, name) for name in WireTrial.model_fields})


def _trial_from_wire(job_uid: str, trial: WireTrial) -> Trial:
    return Trial(job_uid=job_uid, config_hash="", **dict(trial))


class HttpSuggestions:
    """Implements `ports.Suggestions` against the suggestion service; may be called from many threads."""

    def __init__(self, url: str, *, transport: httpx.BaseTransport | None = None) -> None:
        """Talk to the service at `url`; `transport` replaces the network in tests."""
        # The service is in this pod or this cluster: proxy variables are for the world outside.
        self._client = httpx.Client(base_url=url, transport=transport, trust_env=False)

    def suggest(self, request: SuggestionRequest) -> SuggestionAnswer:
        """Return the next configuration.

        Raises `SpaceExhaustedError`, `InvalidInputError` for a request the service refuses,
        `SuggestionUnavailableError` for anything that may get better.
        """
        try:
            response = self._client.post(
                SUGGESTIONS_PATH,
                json=to_wire(request),
                timeout=httpx.Timeout(MARGIN_S, read=request.timeout_s + MARGIN_S),
            )
        except httpx.HTTPError as error:
            raise SuggestionUnavailableError(
                f"suggestion service at {self._client.base_url}: {type(error).__name__}: {error}"
            ) from error
        if response.status_code == httpx.codes.OK:
            return _answer(response)
        raise _error(response)

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
