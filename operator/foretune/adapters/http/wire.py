"""The tracker's values as JSON: frozen dataclasses of the domain, through pydantic, both ways."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    FiniteFloat,
    JsonValue,
    TypeAdapter,
    ValidationError,
    field_validator,
)

from foretune import contract
from foretune.domain.history import JobRecord, Proposal
from foretune.domain.trial import AttemptRecord, Outcome, Point, Trial
from foretune.errors import InvalidReportError

JOB: Final = TypeAdapter(JobRecord)
JOBS: Final = TypeAdapter(list[JobRecord])
TRIAL: Final = TypeAdapter(Trial)
TRIALS: Final = TypeAdapter(list[Trial])
PROPOSAL: Final = TypeAdapter(Proposal)
PROPOSALS: Final = TypeAdapter(list[Proposal])
POINTS: Final = TypeAdapter(list[Point])
ATTEMPT: Final = TypeAdapter(AttemptRecord)
OUTCOME: Final = TypeAdapter(Outcome)

MAX_METRICS: Final = 256
"""Metrics one report may carry."""

LARGEST: Final = 2**31 - 1
"""Largest seq, step and index: integers of the database have 32 bits."""


_RECOVERED: Final = (
    "trial",
    "pod",
    "seq",
    "ts",
    "kind",
    "epoch",
    "step",
    "resources",
    "data_fingerprint",
)
"""What is read of a record besides its metrics."""


def _only_numbers(value: object) -> object:
    if isinstance(value, str | bool):
        raise ValueError(f"must be a number, not {value!r}")  # noqa: TRY004 - pydantic's protocol
    return value


Metric = Annotated[FiniteFloat, BeforeValidator(_only_numbers)]
Name = Annotated[str, Field(min_length=1, max_length=128)]


class Report(BaseModel):
    """One report of a trial; names of metrics are free, the envelope is not."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    v: int
    trial: str = Field(max_length=128)
    attempt: int = Field(ge=0, le=10_000)
    pod: str = Field(min_length=1, max_length=64)
    seq: int = Field(ge=0, le=LARGEST)
    ts: FiniteFloat | None = None
    kind: str = Field(default="epoch", pattern="^(epoch|step|event|final)$")
    epoch: Annotated[FiniteFloat, Field(ge=0)] | None = None
    step: Annotated[int, Field(ge=0, le=LARGEST)] | None = None
    progress: FiniteFloat | None = None
    metrics: dict[Name, Metric] = Field(default_factory=dict, max_length=MAX_METRICS)
    nonfinite: list[Name] = Field(default_factory=list, max_length=MAX_METRICS)
    resources: dict[Name, JsonValue] = Field(default_factory=dict, max_length=64)
    data_fingerprint: str | None = Field(default=None, pattern="^[\x21-\x7e]{1,80}$")
    tags: dict[Name, JsonValue] = Field(default_factory=dict, max_length=64)
    reason: str | None = Field(default=None, max_length=256)

    @field_validator("trial")
    @classmethod
    def _names_a_trial(cls, value: str) -> str:
        uid, slash, index = value.rpartition("/")
        if not (uid and slash and index.isascii() and index.isdecimal()):
            raise ValueError("must be <job uid>/<trial index>")
        if int(index) > LARGEST:
            raise ValueError(f"the index must be at most {LARGEST}")
        return value

    @field_validator("resources", "tags")
    @classmethod
    def _is_json(cls, value: dict[str, JsonValue]) -> dict[str, JsonValue]:
        if not _finite(value):
            raise ValueError("must have finite numbers only")
        return value


REPORTS: Final = TypeAdapter(list[Report])


def _finite(value: JsonValue) -> bool:
    """Whether no number within is NaN or infinite, which JSON does not have."""
    if isinstance(value, dict):
        return all(map(_finite, value.values()))
    if isinstance(value, list):
        return all(map(_finite, value))
    return not isinstance(value, float) or math.isfinite(value)


class VersionError(InvalidReportError):
    """A report of a contract version that this tracker does not speak (409)."""


def read_reports(body: bytes) -> list[dict[str, Any]]:
    """Return the reports of a body, all of one trial, attempt and pod.

    Raises `InvalidReportError` naming the field, `VersionError` for another contract.
    """
    try:
        reports = REPORTS.validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise InvalidReportError(f"{where or 'body'}: {first['msg']}") from None
    if not reports:
        raise InvalidReportError("body: at least one report")
    other = sorted({r.v for r in reports} - {contract.CONTRACT_VERSION})
    if other:
        known = contract.CONTRACT_VERSION
        raise VersionError(f"contract version {other[0]}; this tracker speaks {known} to {known}")
    if len({(r.trial, r.attempt, r.pod) for r in reports}) != 1:
        raise InvalidReportError("body: all reports must be of one trial, attempt and pod")
    return [report.model_dump() for report in reports]


def recovered(records: Sequence[Mapping[str, Any]]) -> tuple[dict[str, Any], ...]:
    """Return what is sound of records found in a log or a termination message; never raises.

    Lines of a log are anybody's text: a value that is no number, or a record that breaks the contract,
    is left out, and a metric that is NaN is named under `nonfinite`.
    """
    found = []
    for record in records:
        raw = {name: record[name] for name in _RECOVERED if name in record}
        metrics = record.get("metrics")
        named = metrics.items() if isinstance(metrics, Mapping) else ()
        numbers = {
            name: float(value)
            for name, value in named
            if isinstance(value, int | float) and not isinstance(value, bool)
        }
        raw["metrics"], unsound = contract.split_metrics(numbers)
        kept = record.get("nonfinite")
        raw["nonfinite"] = [*unsound, *(kept if isinstance(kept, list | tuple) else ())]
        envelope = {"v": contract.CONTRACT_VERSION, "trial": "-/0", "attempt": 0, "pod": "-"}
        try:
            report = Report.model_validate({**envelope, **raw})
        except (ValidationError, RecursionError, OverflowError):
            continue
        found.append({name: value for name, value in report if name in raw})
    return tuple(found)


def trial_of(report: dict[str, Any]) -> tuple[str, int]:
    """Return the job uid and the trial's index that a report names."""
    uid, _, index = report["trial"].rpartition("/")
    return uid, int(index)
