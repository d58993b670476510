"""What must hold between the fields of a spec. `foretune.api.cel` says the same to an API server."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final

from foretune import constants, contract
from foretune.api.problems import listed, nearest
from foretune.domain.job import Algorithm, PriorMode
from foretune.errors import Problem

if TYPE_CHECKING:
    from foretune.api import spec as models
    from foretune.domain.space import Space

WORKLOADS: Final = ("builtin", "image", "template")
"""Fields of `trial` of which one is given."""

SYNTHETIC: Final = re.compile(r"synthetic:(image|text):[1-9]\d*:[1-9]\d*")
"""A data set made up by the trainer: kind, classes, size."""

RESERVED: Final = "FORETUNE_"
"""Start of the variables that are Foretune's own."""

IMAGE_ONLY: Final = ("command", "args")
"""Fields that go with image only."""

NOT_WITH_TEMPLATE: Final = {
    "gpu": f"{constants.GPU_RESOURCE} in the limits of the primary container",
    "resources": "them in the primary container",
    "env": "it in the primary container",
    "envFrom": "it in the primary container",
    "volumes": "them in the pod of the template",
    "volumeMounts": "them in the primary container",
}
"""Fields that don't go with template, and what to set instead."""

NEEDS_NAMES: Final = "mode named needs the names of jobs"
"""Said of `prior.from`."""

NAMED_ONLY: Final = "goes with mode named only"
"""Said of `prior.from`."""

NEEDS_AUTO: Final = "named needs search.algorithm auto: the others learn from no other job"
"""Said of `prior.mode`."""

HAS_SDK: Final = "does not go with builtin, which has it"
"""Said of `trial.inject`."""

MIN_BELOW_MAX: Final = "min must be less than max"

_REFERENCE: Final = re.compile(r"(?<!\$)\$\(params\.([^)]*)\)")


def broken_rules(spec: models.Spec, space: Space | None) -> list[Problem]:
    """Return what is wrong between fields; without a space, what needs none."""
    return [
        *_limits(spec),
        *_search(spec, space),
        *_prior(spec),
        *_workload(spec.trial),
        *_builtin(spec, space),
        *_template(spec.trial),
        *_variables(spec.trial),
        *_references(spec.trial, space),
    ]


def _limits(spec: models.Spec) -> Iterator[Problem]:
    stopping = spec.early_stopping
    if stopping.min is not None and stopping.max is not None and stopping.min >= stopping.max:
        yield Problem("spec.earlyStopping.min", MIN_BELOW_MAX)
    if spec.parallelism > spec.budget.trials:
        message = f"must be at most budget.trials ({spec.budget.trials}), not {spec.parallelism}"
        yield Problem("spec.parallelism", message)


def _search(spec: models.Spec, space: Space | None) -> Iterator[Problem]:
    if spec.search.algorithm is Algorithm.GRID and space is not None and space.cardinality is None:
        endless = [p.name for p in space.parameters if p.cardinality is None]
        message = f"grid needs a finite space: give {listed(endless)} a step or values"
        yield Problem("spec.search.algorithm", message)


def _prior(spec: models.Spec) -> Iterator[Problem]:
    named = spec.prior.mode is PriorMode.NAMED
    if named and spec.prior.from_ is None:
        yield Problem("spec.prior.from", NEEDS_NAMES)
    if not named and spec.prior.from_ is not None:
        yield Problem("spec.prior.from", NAMED_ONLY)
    if named and spec.search.algorithm is not Algorithm.AUTO:
        yield Problem("spec.prior.mode", NEEDS_AUTO)


def _workload(trial: models.Trial) -> Iterator[Problem]:
    given = [name for name in WORKLOADS if getattr(trial, name) is not None]
    if len(given) != 1:
        what = f"{listed(given)} are given" if given else "none is given"
        yield Problem("spec.trial", f"exactly one of {listed(WORKLOADS)} must be given; {what}")
    for name in IMAGE_ONLY:
        if trial.image is None and getattr(trial, name) is not None:
            yield Problem(f"spec.trial.{name}", "goes with image only")
    if trial.inject and trial.builtin is not None:
        yield Problem("spec.trial.inject", HAS_SDK)
    limits = trial.resources.limits if trial.resources is not None else {}
    if trial.gpu is not None and constants.GPU_RESOURCE in limits:
        message = f"stands in resources.limits as {constants.GPU_RESOURCE} too: give one of them"
        yield Problem("spec.trial.gpu", message)


def _builtin(spec: models.Spec, space: Space | None) -> Iterator[Problem]:
    builtin = spec.trial.builtin
    if builtin is None:
        return
    if builtin.model not in contract.BUILTIN_MODELS:
        yield _unknown("spec.trial.builtin.model", builtin.model, contract.BUILTIN_MODELS)
    known = contract.BUILTIN_DATASETS
    if builtin.dataset not in known and not SYNTHETIC.fullmatch(builtin.dataset):
        shown = (*known, "synthetic:<image|text>:<classes>:<size>")
        yield _unknown("spec.trial.builtin.dataset", builtin.dataset, shown)
    if spec.objective.metric not in contract.BUILTIN_METRICS:
        yield _unknown("spec.objective.metric", spec.objective.metric, contract.BUILTIN_METRICS)
    seen: dict[str, str] = {}
    for name in space.names if space is not None else ():
        # Any other name is an extra of the trainer, which knows their types.
        one = _HYPERPARAMETERS.get(name, name)
        if one in seen:
            message = f"is the same hyperparameter as {seen[one]}: give one of them"
            yield Problem(f"spec.space.{name}", message)
        seen[one] = name


_HYPERPARAMETERS: Final = {
    alias: name for name, others in contract.BUILTIN_PARAMETERS.items() for alias in (name, *others)
}


def _unknown(path: str, value: str, known: tuple[str, ...]) -> Problem:
    return Problem(path, f"must be one of {listed(known)}, not {value!r}{nearest(value, known)}")


def _template(trial: models.Trial) -> Iterator[Problem]:
    if trial.template is None:
        return
    for name, instead in NOT_WITH_TEMPLATE.items():
        if name in _given(trial):
            yield Problem(f"spec.trial.{name}", f"does not go with template: set {instead}")
    path, job = "spec.trial.template.job", trial.template.job
    for field, wanted in (("apiVersion", "batch/v1"), ("kind", "Job")):
        if job.get(field) != wanted:
            yield Problem(f"{path}.{field}", f"must be {wanted}, not {job.get(field)!r}")
    names = [str(name) for name, _ in _containers(job)]
    primary = trial.template.primary_container
    if not names:
        where = f"{path}.spec.template.spec.containers"
        yield Problem(where, "must be a list of containers, each with a name")
    elif primary not in names:
        message = f"must be one of {listed(names)}, not {primary!r}{nearest(primary, names)}"
        yield Problem("spec.trial.template.primaryContainer", message)


def _given(trial: models.Trial) -> set[str]:
    return set(trial.model_dump(by_alias=True, exclude_none=True))


def _containers(job: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    """Return (name, container) of a Job's containers; empty when they are not what they should be."""
    found: Any = job
    for part in ("spec", "template", "spec", "containers"):
        found = found.get(part) if isinstance(found, Mapping) else None
    if not isinstance(found, list) or not all(isinstance(one, Mapping) for one in found):
        return []
    return [(one["name"], one) for one in found if isinstance(one.get("name"), str)]


def _variables(trial: models.Trial) -> Iterator[Problem]:
    for position, entry in enumerate(trial.env or ()):
        if str(entry["name"]).startswith(RESERVED):
            message = f"{entry['name']}: names that start with {RESERVED} are Foretune's own"
            yield Problem(f"spec.trial.env[{position}].name", message)


def _references(trial: models.Trial, space: Space | None) -> Iterator[Problem]:
    """Yield each $(params.x) that names no parameter."""
    if space is None:
        return
    parts = trial.model_dump(by_alias=True, include={"command", "args", "env"}, exclude_none=True)
    found = [("spec.trial", parts)]
    if trial.template is not None:
        path = "spec.trial.template.job.spec.template.spec.containers"
        found += [
            (f"{path}[{position}]", dict(container))
            for position, (name, container) in enumerate(_containers(trial.template.job))
            if name == trial.template.primary_container
        ]
    for path, where, text in (
        (path, where, text) for path, part in found for where, text in _texts(part)
    ):
        for name in _REFERENCE.findall(text):
            if name not in space.names:
                message = f"$(params.{name}) names no parameter of spec.space"
                yield Problem(f"{path}.{where}", message + nearest(name, space.names))


def _texts(part: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield (path, text) wherever a reference to a parameter is replaced."""
    for name in ("command", "args"):
        words = part.get(name)
        for position, word in enumerate(words if isinstance(words, list) else ()):
            yield f"{name}[{position}]", str(word)
    variables = part.get("env")
    for position, entry in enumerate(variables if isinstance(variables, list) else ()):
        if isinstance(entry, Mapping):
            yield f"env[{position}].value", str(entry.get("value", ""))
