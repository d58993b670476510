"""`spec` of a TuningJob, field by field. The CRD's schema is rendered from these models."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, FiniteFloat
from pydantic.alias_generators import to_camel

from foretune.domain.job import Algorithm, Goal, Reduce


class Model(BaseModel):
    """Base of every model: camelCase in YAML, nothing unknown, nothing changed, no text for a number."""

    model_config = ConfigDict(
        extra="forbid", alias_generator=to_camel, populate_by_name=True, frozen=True
    )


def _no_text(value: object) -> object:
    if isinstance(value, str | bool):
        raise ValueError(f"must be a number, not {value!r}")  # noqa: TRY004 - pydantic's protocol
    return value


Number = Annotated[FiniteFloat, BeforeValidator(_no_text)]
Whole = Annotated[int, BeforeValidator(_no_text)]


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


class BuiltinTrial(Model):
    """A trial of the trainer that ships with Foretune."""

    model: str = Field(min_length=1, max_length=64, description="cnn, transformer or bert.")
    dataset: str = Field(
        min_length=1,
        max_length=128,
        description="digits, mnist, sst2, or synthetic:<image|text>:<classes>:<size>.",
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


class Resources(Model):
    """Kubernetes resources of the trial's container."""

    requests: dict[str, str | int | float] = Field(
        default_factory=dict, max_length=16, description="Kubernetes requests."
    )
    limits: dict[str, str | int | float] = Field(
        default_factory=dict, max_length=16, description="Kubernetes limits."
    )


Objects = Annotated[list[dict[str, Any]], Field(max_length=64)]
Words = Annotated[list[str], Field(max_length=256)]


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
    env: Objects | None = Field(None, description="Kubernetes EnvVar objects.")
    env_from: Objects | None = Field(None, description="Kubernetes EnvFromSource objects.")
    volumes: Objects | None = Field(None, description="Kubernetes volumes of the pod.")
    volume_mounts: Objects | None = Field(None, description="Kubernetes volume mounts.")
    template: Template | None = Field(None, description="A whole Job.")
    gpu: Whole | None = Field(None, ge=0, le=64, description="Number of nvidia.com/gpu.")
    resources: Resources | None = Field(None, description="Kubernetes requests and limits.")
    timeout_seconds: Whole | None = Field(
        None, ge=1, le=31_536_000, description="Longest run of one attempt, in seconds."
    )


class Budget(Model):
    """Limits of the whole job."""

    trials: Whole = Field(20, ge=1, le=100_000, description="Trials to run.")
    gpu_hours: Number | None = Field(
        None, gt=0, description="Held GPU hours after which no further trial starts."
    )


class FailurePolicy(Model):
    """When failed trials fail the job. Preempted trials never count."""

    max_failed: Whole | Annotated[str, Field(pattern=r"^(100|[1-9]?[0-9])%$")] = Field(
        "20%", description="Failed trials allowed: a number, or a share of budget.trials."
    )
    on_error: Whole = Field(
        1, ge=0, le=10, description="Retries of a trial that ended with an error."
    )


class Task(Model):
    """What the job is about: makes jobs comparable, never required."""

    model: str | None = Field(None, max_length=128, description="Model family.")
    dataset: str | None = Field(None, max_length=128, description="Data set.")
    labels: dict[str, str] = Field(
        default_factory=dict, max_length=32, description="Anything else."
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
    suspend: bool = Field(default=False, description="Start no further trial; running ones finish.")
    ttl_seconds_after_finished: Whole | None = Field(
        None, ge=0, le=31_536_000, description="Seconds an ended trial's Job stays; default 3600."
    )
    task: Task = Field(default_factory=Task, description="What the job is about.")


class Metadata(BaseModel):
    """The part of an object's metadata that is read; the rest is the API server's."""

    model_config = ConfigDict(extra="allow", alias_generator=to_camel, populate_by_name=True)

    name: str = Field(min_length=1, max_length=253)
    namespace: str | None = None
    uid: str = ""
    generation: int = 1
    creation_timestamp: str | None = None


class TuningJob(BaseModel):
    """A TuningJob as it stands in YAML."""

    model_config = ConfigDict(
        extra="forbid", alias_generator=to_camel, populate_by_name=True, frozen=True
    )

    api_version: Literal["foretune.io/v1alpha1"]
    kind: Literal["TuningJob"]
    metadata: Metadata
    spec: Spec
    status: dict[str, Any] = Field(default_factory=dict)
