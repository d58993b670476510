"""`spec` of a TuningJob, field by field. The CRD's schema is rendered from these models."""

from __future__ import annotations

import re
from typing import Annotated, Any, Final, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    FiniteFloat,
    StrictBool,
)
from pydantic.alias_generators import to_camel

from foretune.api.problems import text_number
from foretune.domain.job import Algorithm, Goal, Inject, PriorMode, Reduce, Scope, StopMethod
from foretune.domain.space import Scale

QUANTITY: Final = r"^[0-9]+(\.[0-9]+)?([eE][-+]?[0-9]+|[numkMGTPE]|[KMGTPE]i)?$"
"""Amounts of a resource as Kubernetes writes them: 2, 500m, 4Gi."""

PERCENT: Final = r"^(100|[1-9]?[0-9])%$"
"""A share of `budget.trials`."""


class Model(BaseModel):
    """Base of every model: camelCase in YAML, nothing unknown, nothing changed, no text for a number."""

    model_config = ConfigDict(extra="forbid", alias_generator=to_camel, frozen=True)


def _no_text(value: object) -> object:
    if isinstance(value, str | bool):
        message = f"must be a number, not {value!r}{text_number(value)}"
        raise ValueError(message)  # noqa: TRY004 - pydantic's protocol
    return value


Number = Annotated[FiniteFloat, BeforeValidator(_no_text)]
Whole = Annotated[int, BeforeValidator(_no_text)]


def _amount(value: object) -> object:
    if isinstance(value, bool) or not isinstance(value, int | str):
        message = f"must be an amount such as 2, 500m or 4Gi, not {value!r}"
        raise ValueError(message)  # noqa: TRY004 - pydantic's protocol
    return value


Quantity = Annotated[str | int, BeforeValidator(_amount)]
"""A whole number, or a text that matches `QUANTITY` (`Resources` checks it)."""


Name = Annotated[str, Field(min_length=1, max_length=63)]
"""Name of another TuningJob."""


class Parameter(Model):  # for the schema: foretune.api.space reads it, and knows more
    """One parameter of the space.

    Either min and max (a number; whole bounds make it an int), or values (a list to choose from; numbers
    have an order), or value (the same for every trial).
    """

    type: Literal["float", "int", "choice", "ordinal", "const"] | None = Field(
        None, description="Read from the other fields when it is not given."
    )
    min: Number | None = Field(None, description="Smallest value; log needs more than 0.")
    max: Number | None = Field(None, description="Largest value.")
    step: Number | None = Field(
        None, description="Distance of neighbours; max - min is a whole number of steps."
    )
    scale: Scale | None = Field(None, description="linear (the default) or log.")
    values: list[Any] | None = Field(
        None, min_length=1, max_length=256, description="Texts, numbers or booleans, each once."
    )
    value: Any = Field(None, description="The value of a constant.")
    default: Any = Field(
        None, description="Value of the first trial, when every parameter has a default."
    )


class Objective(Model):
    """What is optimised."""

    metric: str = Field(
        min_length=1, max_length=128, description="Name of the metric, as the trial reports it."
    )
    goal: Goal = Field(Goal.MAXIMIZE, description="Direction.")
    target: Number | None = Field(
        None, description="The job is Complete once a trial reaches this value."
    )
    reduce: Reduce = Field(Reduce.BEST, description="How a trial's curve becomes one value.")


class Search(Model):
    """How configurations are proposed."""

    algorithm: Algorithm = Field(
        Algorithm.AUTO, description="auto takes the best method available."
    )
    seed: Whole | None = Field(
        None, ge=0, le=2**31 - 1, description="Default: derived from the object's uid."
    )
    initial: Whole | None = Field(
        None, ge=1, le=256, description="Trials of the start design, before a model proposes."
    )
    timeout_seconds: Whole = Field(
        30, ge=1, le=600, description="After this a scrambled Sobol point stands in."
    )
    stop_when_converged: StrictBool = Field(
        default=False,
        description="The job is Complete once the models expect no improvement any more.",
    )
    tolerance: Number = Field(
        0,
        ge=0,
        description="With stopWhenConverged: expected improvement, in the metric's unit, that is worth"
        " no trial; a quarter of the noise at least.",
    )


class BuiltinTrial(Model):
    """A trial of the trainer that ships with Foretune."""

    model: str = Field(
        min_length=1, max_length=64, description="cnn, resnet, lstm, transformer or bert."
    )
    dataset: str = Field(
        min_length=1,
        max_length=128,
        description="digits, mnist, cifar10, imdb, ag_news, sst2, or synthetic:<image|text>:<classes>:<size>.",
    )
    path: str | None = Field(
        None, max_length=1024, description="Folder of the data set inside the pod."
    )
    extras: dict[str, Any] = Field(
        default_factory=dict,
        max_length=32,
        description="Typed extras of the trainer (width, weight_decay, max_length, ...).",
    )


class Template(Model):
    """A trial described by a whole batch/v1 Job."""

    job: dict[str, Any] = Field(
        description="A batch/v1 Job; $(params.x) is replaced in the primary container."
    )
    primary_container: str = Field(
        "trainer", min_length=1, max_length=63, description="Container that trains and reports."
    )


def _amounts(amounts: dict[str, str | int]) -> dict[str, str | int]:
    for name, amount in amounts.items():
        if not re.fullmatch(QUANTITY, str(amount)):
            raise ValueError(f"{name} must be an amount such as 2, 500m or 4Gi, not {amount!r}")
    return amounts


Amounts = Annotated[dict[str, Quantity], Field(max_length=16), AfterValidator(_amounts)]


class Resources(Model):
    """Kubernetes resources of the trial's container."""

    requests: Amounts = Field(default_factory=dict, description="Kubernetes requests.")
    limits: Amounts = Field(default_factory=dict, description="Kubernetes limits.")


def _named(entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    if not all(isinstance(entry.get("name"), str) for entry in entries):
        raise ValueError("each entry needs a name")
    return entries


Objects = Annotated[list[dict[str, Any]], Field(max_length=64)]
Variables = Annotated[Objects, AfterValidator(_named)]
Words = Annotated[list[Annotated[str, Field(max_length=65_536)]], Field(max_length=256)]


class Trial(Model):
    """What one trial runs: exactly one of builtin, image and template."""

    builtin: BuiltinTrial | None = Field(None, description="The trainer that ships with Foretune.")
    image: str | None = Field(
        None, min_length=1, max_length=512, description="Your own image, with command and args."
    )
    command: Words | None = Field(
        None, description="Entry point; $(params.x) is replaced, nothing else is changed."
    )
    args: Words | None = Field(None, description="Arguments; $(params.x) is replaced.")
    env: Variables | None = Field(
        None, description="Kubernetes EnvVar objects; $(params.x) is replaced in value."
    )
    env_from: Objects | None = Field(None, description="Kubernetes EnvFromSource objects.")
    volumes: Variables | None = Field(None, description="Kubernetes volumes of the pod.")
    volume_mounts: Variables | None = Field(
        None, description="Kubernetes volume mounts of the trial's container."
    )
    template: Template | None = Field(None, description="A whole Job.")
    gpu: Whole | None = Field(None, ge=0, le=64, description="Number of nvidia.com/gpu.")
    resources: Resources | None = Field(None, description="Kubernetes requests and limits.")
    inject: list[Inject] | None = Field(
        None,
        max_length=2,
        description="What is brought into an image that lacks it: sdk (the reporting SDK on PYTHONPATH;"
        " Lightning then needs no line), shims (stand-ins for ray.train.report and the like, with the sdk).",
    )
    timeout_seconds: Whole | None = Field(
        None, ge=1, le=31_536_000, description="Longest run of one attempt, in seconds."
    )


class Budget(Model):
    """Limits of the whole job."""

    trials: Whole = Field(20, ge=1, le=100_000, description="Trials to run.")
    gpu_hours: Number | None = Field(
        None, gt=0, description="Held GPU hours after which no further trial starts."
    )
    idle_trials: Whole | None = Field(
        None,
        ge=1,
        le=100_000,
        description="The job is Complete once so many trials in a row brought no improvement.",
    )


class EarlyStopping(Model):
    """When running trials are stopped because they will not become the best."""

    method: StopMethod = Field(
        StopMethod.AUTO,
        description="auto is curve once past jobs have taught what curves do, else none.",
    )
    min: Number | None = Field(
        None, gt=0, description="Epochs before which no trial is stopped; default a tenth of it."
    )
    max: Number | None = Field(
        None, gt=0, description="Epochs of a whole trial; default: read from the parameter epochs."
    )
    eta: Whole = Field(3, ge=2, le=5, description="asha lets one trial of so many go on.")
    grace_trials: Whole = Field(
        4, ge=1, le=1000, description="Trials that run to their end before any is stopped."
    )


def _limit(value: object) -> object:
    good = not isinstance(value, bool) and (
        (isinstance(value, int) and value >= 0)
        or (isinstance(value, str) and re.fullmatch(PERCENT, value))
    )
    if not good:
        raise ValueError(f"must be a number of trials or a share such as 20%, not {value!r}")
    return value


class OnError(Model):
    """What follows when a trial ends with an error."""

    retries: Whole = Field(1, ge=0, le=10, description="How often the trial is run again.")


class FailurePolicy(Model):
    """When failed trials fail the job. Preempted trials never count."""

    max_failed: Annotated[int | str, BeforeValidator(_limit)] = Field(
        "20%", description="Failed trials allowed: a number, or a share of budget.trials."
    )
    on_error: OnError = Field(
        default_factory=OnError, description="What follows when a trial ends with an error."
    )


class Task(Model):
    """What the job is about: makes jobs comparable, never required."""

    model: str | None = Field(None, max_length=128, description="Model family.")
    dataset: str | None = Field(None, max_length=128, description="Data set.")
    labels: dict[str, str] = Field(
        default_factory=dict, max_length=32, description="Anything else, as in labels."
    )


class Prior(Model):
    """Which past jobs this one learns from."""

    mode: PriorMode = Field(
        PriorMode.AUTO,
        description="auto takes whatever past jobs are relevant, named those in from, off none.",
    )
    from_: list[Name] | None = Field(
        None,
        alias="from",
        min_length=1,
        max_length=64,
        description="Names of jobs in this namespace, for mode named.",
    )
    scope: Scope | None = Field(
        None,
        description="Whose jobs: namespace, or cluster for those of other namespaces that publish so"
        " far, too. Default: what the tracker is set to.",
    )
    max_tasks: Whole = Field(32, ge=1, le=64, description="Past jobs used at most.")


class History(Model):
    """Who may learn from this job."""

    publish: StrictBool = Field(default=True, description="Whether later jobs may learn from it.")
    scope: Scope = Field(
        Scope.NAMESPACE,
        description="namespace, or cluster: jobs of all namespaces, where an administrator lets this"
        " namespace publish so far.",
    )


class Spec(Model):
    """A tuning job."""

    objective: Objective = Field(description="What is optimised. Immutable.")
    space: dict[str, dict[str, Any]] = Field(
        description="The search space, by parameter name. Immutable.", min_length=1, max_length=64
    )
    trial: Trial = Field(description="What one trial runs. Immutable.")
    search: Search = Field(default_factory=Search, description="How configurations are proposed.")
    parallelism: Whole = Field(1, ge=1, le=256, description="Trials that run at once.")
    budget: Budget = Field(default_factory=Budget, description="Limits of the whole job.")
    failure_policy: FailurePolicy = Field(
        default_factory=FailurePolicy, description="When failed trials fail the job."
    )
    early_stopping: EarlyStopping = Field(
        default_factory=EarlyStopping, description="When running trials are stopped."
    )
    suspend: StrictBool = Field(
        default=False, description="Start no further trial; running ones finish."
    )
    ttl_seconds_after_finished: Whole | None = Field(
        None, ge=0, le=31_536_000, description="Seconds an ended trial's Job stays; default 3600."
    )
    task: Task = Field(default_factory=Task, description="What the job is about.")
    prior: Prior = Field(default_factory=Prior, description="Which past jobs it learns from.")
    history: History = Field(
        default_factory=History, description="Which later jobs may learn from it."
    )


class Metadata(BaseModel):
    """The part of an object's metadata that is read; the rest is the API server's."""

    model_config = ConfigDict(extra="allow", alias_generator=to_camel)

    name: str = Field(min_length=1, max_length=253)
    namespace: str | None = None
    uid: str = ""
    generation: int = 1
    creation_timestamp: str | None = None


class TuningJob(BaseModel):
    """A TuningJob as it stands in YAML."""

    model_config = ConfigDict(extra="forbid", alias_generator=to_camel, frozen=True)

    api_version: Literal["foretune.io/v1alpha1"]
    kind: Literal["TuningJob"]
    metadata: Metadata
    spec: Spec
    status: dict[str, Any] = Field(default_factory=dict)
