"""foretune.io/v1alpha1: `parse` a body, then `to_domain` gives the job that the planner knows."""

from __future__ import annotations

import copy
import re
import zlib
from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from pydantic import BaseModel, ValidationError
from pydantic.alias_generators import to_camel

from foretune import constants, contract
from foretune.api import spec as models
from foretune.api.problems import from_pydantic, listed, nearest
from foretune.api.space import parse_space
from foretune.domain.job import (
    Algorithm,
    Builtin,
    FailurePolicy,
    Image,
    Job,
    JobKey,
    JobSpec,
    Objective,
    Search,
    Template,
    TrialSpec,
    Workload,
)
from foretune.errors import InvalidJobError, Problem

if TYPE_CHECKING:
    from foretune.domain.space import Space

DNS_NAME: Final = re.compile(r"[a-z0-9]([a-z0-9.-]{0,61}[a-z0-9])?")
SYNTHETIC: Final = re.compile(r"synthetic:(image|text):\d+:\d+")
PARAMETER: Final = re.compile(r"(?<!\$)\$\(params\.([^)]*)\)")
TOP: Final = ("apiVersion", "kind", "metadata", "spec", "status")


def _fields() -> dict[str, list[str]]:
    """Return the known fields below each path part, for nearest names."""
    found: dict[str, list[str]] = {"spec": _aliases(models.Spec), "": list(TOP)}
    for name, field in models.Spec.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            found[to_camel(name)] = _aliases(kind)
    found["builtin"] = _aliases(models.BuiltinTrial)
    found["template"] = _aliases(models.Template)
    found["resources"] = _aliases(models.Resources)
    return found


def _aliases(model: type[BaseModel]) -> list[str]:
    return [to_camel(name) for name in model.model_fields]


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
            ),
            trial=_trial(spec.trial),
            parallelism=spec.parallelism,
            trials=spec.budget.trials,
            gpu_hours=spec.budget.gpu_hours,
            failure=_failure(spec.failure_policy),
            suspend=spec.suspend,
            ttl_s=spec.ttl_seconds_after_finished,
            context=_context(spec),
            manifest=copy.deepcopy(dict(self.body["spec"])),
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
        found = from_pydantic(error, "", _fields())
        raise InvalidJobError([*found, *problems]) from None
    problems.extend(_rules(model.spec, space))
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


def _rules(spec: models.Spec, space: Space | None) -> list[Problem]:
    """Return what is wrong between fields."""
    problems = []
    if spec.parallelism > spec.budget.trials:
        message = f"must be at most budget.trials ({spec.budget.trials}), not {spec.parallelism}"
        problems.append(Problem("spec.parallelism", message))
    if spec.search.algorithm is Algorithm.GRID and space is not None and space.cardinality is None:
        endless = [p.name for p in space.parameters if p.cardinality is None]
        message = f"grid needs a finite space: give {listed(endless)} a step or values"
        problems.append(Problem("spec.search.algorithm", message))
    given = [n for n in ("builtin", "image", "template") if getattr(spec.trial, n) is not None]
    if len(given) != 1:
        what = f"{listed(given)} are given" if given else "none is given"
        problems.append(Problem("spec.trial", f"exactly one of builtin, image, template; {what}"))
    problems.extend(_only_with_image(spec.trial))
    if spec.trial.builtin is not None:
        problems.extend(_builtin(spec, space))
    if spec.trial.template is not None:
        problems.extend(_template(spec.trial))
    problems.extend(_references(spec.trial, space))
    return problems


def _only_with_image(trial: models.Trial) -> list[Problem]:
    if trial.image is not None:
        return []
    fields = ("command", "args")
    return [
        Problem(f"spec.trial.{name}", "goes with image only")
        for name in fields
        if getattr(trial, name) is not None
    ]


def _builtin(spec: models.Spec, space: Space | None) -> list[Problem]:
    problems = []
    builtin = spec.trial.builtin
    assert builtin is not None
    if builtin.model not in contract.BUILTIN_MODELS:
        problems.append(
            _unknown("spec.trial.builtin.model", builtin.model, contract.BUILTIN_MODELS)
        )
    known = contract.BUILTIN_DATASETS
    if builtin.dataset not in known and not SYNTHETIC.fullmatch(builtin.dataset):
        problems.append(_unknown("spec.trial.builtin.dataset", builtin.dataset, known))
    if spec.objective.metric not in contract.BUILTIN_METRICS:
        metrics = contract.BUILTIN_METRICS
        problems.append(_unknown("spec.objective.metric", spec.objective.metric, metrics))
    names = {
        alias: name
        for name, others in contract.BUILTIN_PARAMETERS.items()
        for alias in (name, *others)
    }
    seen: dict[str, str] = {}
    for name in space.names if space is not None else ():
        if name not in names:
            continue  # an extra of the trainer, which knows their types
        if names[name] in seen:
            message = f"is the same hyperparameter as {seen[names[name]]}: give one of them"
            problems.append(Problem(f"spec.space.{name}", message))
        seen[names[name]] = name
    return problems


def _unknown(path: str, value: str, known: tuple[str, ...]) -> Problem:
    return Problem(path, f"must be one of {listed(known)}, not {value!r}{nearest(value, known)}")


def _template(trial: models.Trial) -> list[Problem]:
    assert trial.template is not None
    path, job, problems = "spec.trial.template.job", trial.template.job, []
    if trial.gpu is not None:
        message = "does not go with template: set nvidia.com/gpu in the primary container's limits"
        problems.append(Problem("spec.trial.gpu", message))
    if (job.get("apiVersion"), job.get("kind")) != ("batch/v1", "Job"):
        shown = f"{job.get('apiVersion')} {job.get('kind')}"
        return [*problems, Problem(path, f"must be a batch/v1 Job, not {shown}")]
    try:
        containers = job["spec"]["template"]["spec"]["containers"]
        names = [container["name"] for container in containers]
    except (KeyError, TypeError):
        where = f"{path}.spec.template.spec.containers"
        return [*problems, Problem(where, "must be a list of containers, each with a name")]
    primary = trial.template.primary_container
    if primary not in names:
        message = f"must be one of {listed(names)}, not {primary!r}{nearest(primary, names)}"
        problems.append(Problem("spec.trial.template.primaryContainer", message))
    return problems


def _references(trial: models.Trial, space: Space | None) -> list[Problem]:
    """Return each $(params.x) that names no parameter."""
    if space is None:
        return []
    texts = [(f"spec.trial.command[{i}]", t) for i, t in enumerate(trial.command or ())]
    texts += [(f"spec.trial.args[{i}]", t) for i, t in enumerate(trial.args or ())]
    texts += [
        (f"spec.trial.env[{i}].value", str(e.get("value", "")))
        for i, e in enumerate(trial.env or ())
    ]
    return [
        Problem(
            path, f"$(params.{name}) names no parameter of spec.space{nearest(name, space.names)}"
        )
        for path, text in texts
        for name in PARAMETER.findall(text)
        if name not in space.names
    ]


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
        timeout_s=float(trial.timeout_seconds) if trial.timeout_seconds is not None else None,
    )


def _workload(trial: models.Trial) -> Workload:
    if trial.builtin is not None:
        return Builtin(
            model=trial.builtin.model,
            dataset=trial.builtin.dataset,
            data_path=trial.builtin.path,
            extras=trial.builtin.extras,
        )
    if trial.template is not None:
        return Template(job=trial.template.job, primary_container=trial.template.primary_container)
    assert trial.image is not None
    return Image(
        image=trial.image,
        command=tuple(trial.command or ()),
        args=tuple(trial.args or ()),
        env=tuple(trial.env or ()),
        env_from=tuple(trial.env_from or ()),
        volumes=tuple(trial.volumes or ()),
        volume_mounts=tuple(trial.volume_mounts or ()),
    )


def _failure(policy: models.FailurePolicy) -> FailurePolicy:
    if isinstance(policy.max_failed, int):
        return FailurePolicy(max_failed=policy.max_failed, on_error_retries=policy.on_error)
    percent = float(policy.max_failed.removesuffix("%"))
    return FailurePolicy(max_failed_percent=percent, on_error_retries=policy.on_error)


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
