"""foretune.io/v1alpha1: `parse` a body, then `to_domain` gives the job that the planner knows."""

from __future__ import annotations

import copy
import re
import zlib
from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, get_args

from pydantic import BaseModel, ValidationError
from pydantic.alias_generators import to_camel

from foretune import constants
from foretune.api import spec as models
from foretune.api.problems import from_pydantic
from foretune.api.rules import broken_rules
from foretune.api.space import parse_space
from foretune.domain.job import (
    Builtin,
    EarlyStopping,
    FailurePolicy,
    Image,
    Job,
    JobKey,
    JobSpec,
    Objective,
    PriorSpec,
    Search,
    Template,
    TrialSpec,
    Workload,
)
from foretune.errors import InvalidJobError, Problem

if TYPE_CHECKING:
    from foretune.domain.space import Space

DNS_NAME: Final = re.compile(r"[a-z0-9]([a-z0-9.-]{0,61}[a-z0-9])?")
TOP: Final = ("apiVersion", "kind", "metadata", "spec", "status")


def _fields(model: type[BaseModel] = models.Spec, name: str = "spec") -> dict[str, list[str]]:
    """Return the known fields below each field that has some, for nearest names."""
    aliases = {field: info.alias or to_camel(field) for field, info in model.model_fields.items()}
    found = {name: list(aliases.values())}
    for field, info in model.model_fields.items():
        for kind in (info.annotation, *get_args(info.annotation)):
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                found |= _fields(kind, aliases[field])
    return found


class TuningJob:
    """A TuningJob whose every rule holds; made by `parse`."""

    def __init__(self, model: models.TuningJob, space: Space, body: Mapping[str, Any]) -> None:
        """Keep the checked model, its space, and the body it came from."""
        self.model = model
        self.space = space
        self.body = body

    @property
    def name(self) -> str:
        """Name of the object."""
        return self.model.metadata.name

    def to_domain(self, *, namespace: str | None = None, uid: str | None = None) -> Job:
        """Return the job with every default filled in; arguments replace what the metadata says."""
        meta = self.model.metadata
        identity = uid or meta.uid
        return Job(
            key=JobKey(namespace or meta.namespace or "default", meta.name),
            uid=identity,
            spec=self._spec(identity),
            generation=meta.generation,
            created_at=_unix(meta.creation_timestamp),
            status=self.model.status,
        )

    def _spec(self, uid: str) -> JobSpec:
        spec = self.model.spec
        seed = spec.search.seed if spec.search.seed is not None else zlib.crc32(uid.encode())
        return JobSpec(
            objective=Objective(**dict(spec.objective)),
            space=self.space,
            search=Search(
                algorithm=spec.search.algorithm,
                seed=seed,
                initial=spec.search.initial,
                timeout_s=float(spec.search.timeout_seconds),
                stop_when_converged=spec.search.stop_when_converged,
                tolerance=spec.search.tolerance,
            ),
            trial=_trial(spec.trial),
            parallelism=spec.parallelism,
            trials=spec.budget.trials,
            gpu_hours=spec.budget.gpu_hours,
            idle_trials=spec.budget.idle_trials,
            failure=_failure(spec.failure_policy),
            early_stopping=early_stopping_of(spec.early_stopping),
            suspend=spec.suspend,
            ttl_s=spec.ttl_seconds_after_finished,
            context=_context(spec),
            manifest=copy.deepcopy(dict(self.body["spec"])),
        )


def early_stopping_of(model: models.EarlyStopping) -> EarlyStopping:
    """Return what a manifest says of trials that are stopped."""
    return EarlyStopping(**dict(model))


def prior_of(prior: models.Prior) -> PriorSpec:
    """Return what a manifest says of past jobs."""
    return PriorSpec(
        mode=prior.mode,
        names=tuple(prior.from_ or ()),
        scope=prior.scope,
        max_tasks=prior.max_tasks,
    )


def parse(body: object) -> TuningJob:
    """Return a body whose every rule holds; raises `InvalidJobError` with everything that is wrong."""
    if not isinstance(body, Mapping):
        raise InvalidJobError([Problem("", f"must be a TuningJob, not {type(body).__name__}")])
    _kind(body)
    problems: list[Problem] = []
    space, raw = None, body.get("spec")
    if isinstance(raw, Mapping) and "space" in raw:
        try:
            space = parse_space(raw["space"])
        except InvalidJobError as error:
            problems.extend(error.problems)
    try:
        model = models.TuningJob.model_validate(_without_space(body) if problems else body)
    except ValidationError as error:
        found = from_pydantic(error, "", {**_fields(), "": TOP})
        raise InvalidJobError([*found, *problems]) from None
    problems.extend(broken_rules(model.spec, space))
    if not DNS_NAME.fullmatch(model.metadata.name):
        rule = "must be a name of Kubernetes: small letters, digits, - and ., at most 63 characters"
        problems.append(Problem("metadata.name", f"{rule}, not {model.metadata.name!r}"))
    if problems or space is None:
        raise InvalidJobError(problems)
    return TuningJob(model, space, body)


def _kind(body: Mapping[str, Any]) -> None:
    kind, version = body.get("kind"), body.get("apiVersion")
    if kind != constants.KIND:
        message = f"must be {constants.KIND}, not {kind!r}"
        raise InvalidJobError([Problem("kind", message)])
    if version != constants.API_VERSION:
        message = f"must be {constants.API_VERSION}, the version that is served, not {version!r}"
        raise InvalidJobError([Problem("apiVersion", message)])


def _without_space(body: Mapping[str, Any]) -> dict[str, Any]:
    """Return the body with a space that surely holds, so that its problems are said once."""
    return {**body, "spec": {**body["spec"], "space": {"x": {}}}}


def _trial(trial: models.Trial) -> TrialSpec:
    resources = trial.resources
    return TrialSpec(
        workload=_workload(trial),
        gpu=trial.gpu or 0,
        resources={
            kind: {name: str(amount) for name, amount in amounts.items()}
            for kind, amounts in (dict(resources) if resources else {}).items()
            if amounts
        },
        inject=frozenset(trial.inject or ()),
        timeout_s=float(trial.timeout_seconds) if trial.timeout_seconds is not None else None,
    )


def _workload(trial: models.Trial) -> Workload:
    if trial.builtin is not None:
        return Builtin(
            model=trial.builtin.model,
            dataset=trial.builtin.dataset,
            data_path=trial.builtin.path,
            extras=trial.builtin.extras,
            **_pod_parts(trial),
        )
    if trial.template is not None:
        return Template(job=trial.template.job, primary_container=trial.template.primary_container)
    assert trial.image is not None
    return Image(
        image=trial.image,
        command=tuple(trial.command or ()),
        args=tuple(trial.args or ()),
        **_pod_parts(trial),
    )


def _pod_parts(trial: models.Trial) -> dict[str, tuple[dict[str, Any], ...]]:
    return {
        "env": tuple(trial.env or ()),
        "env_from": tuple(trial.env_from or ()),
        "volumes": tuple(trial.volumes or ()),
        "volume_mounts": tuple(trial.volume_mounts or ()),
    }


def _failure(policy: models.FailurePolicy) -> FailurePolicy:
    retries = policy.on_error.retries
    if isinstance(policy.max_failed, int):
        return FailurePolicy(max_failed=policy.max_failed, on_error_retries=retries)
    percent = float(policy.max_failed.removesuffix("%"))
    return FailurePolicy(max_failed_percent=percent, on_error_retries=retries)


def _context(spec: models.Spec) -> dict[str, str]:
    builtin = spec.trial.builtin
    model = spec.task.model or (builtin.model if builtin else None)
    dataset = spec.task.dataset or (builtin.dataset if builtin else None)
    context = dict(spec.task.labels)
    context.update({"model": model} if model else {})
    context.update({"dataset": dataset} if dataset else {})
    return context


def _unix(timestamp: str | None) -> float:
    return datetime.fromisoformat(timestamp).timestamp() if timestamp else 0.0
