"""Katib's Experiment and Trial objects, as `kubectl get experiments,trials -o yaml` (or json) prints them."""

from __future__ import annotations

import json
import math
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

import yaml

from foretune.adapters.exchange import cells
from foretune.adapters.exchange.columns import job_name, outside
from foretune.adapters.exchange.staging import Row
from foretune.api.space import parse_space, render_space
from foretune.domain.exchange import PastTask
from foretune.domain.job import Goal, Objective, Reduce
from foretune.domain.space import Choice, Const, Float, Int, Ordinal, Scale, Space
from foretune.domain.trial import EndReason, TrialState
from foretune.errors import InvalidInputError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from foretune.domain.space import Parameter, Params, Value

EXPERIMENT: Final = "katib.kubeflow.org/experiment"
"""Label of a Trial: its Experiment."""

ENDS: Final = {
    "Succeeded": (TrialState.COMPLETED, EndReason.DONE),
    "EarlyStopped": (TrialState.EARLY_STOPPED, EndReason.STOPPED_BY_RULE),
    "Failed": (TrialState.FAILED, EndReason.ERROR),
    "MetricsUnavailable": (TrialState.FAILED, EndReason.METRICS_MISSING),
    "Killed": (TrialState.CANCELLED, EndReason.DELETED),
}
"""Conditions that end a Trial; of several the first of these counts."""

OUT_OF_MEMORY: Final = "OOMKilled"
"""What the message of a failed Trial says when its container had too little memory."""

MESSAGE: Final = 2000
"""Characters kept of a message."""

LOGARITHMIC: Final = frozenset({"logUniform", "logNormal"})
"""Distributions of a feasible space on a logarithmic scale; without one Katib's is uniform."""


class KatibObjects:
    """The reader of a file of objects."""

    def __init__(self, path: Path) -> None:
        """Take a file; raises `InvalidInputError` when it is neither YAML nor JSON, or holds no Trial."""
        objects = _objects(path)
        self._experiments = {_key(one): one for one in objects if one["kind"] == "Experiment"}
        self._trials = [one for one in objects if one["kind"] == "Trial"]
        self._tasks: dict[tuple[str, str], PastTask] = {}
        self.unfinished = 0
        """Trials that have not ended: they are left for the next import."""
        self.notes: list[str] = []
        """What was not taken over as it stands."""
        if not self._trials:
            raise InvalidInputError(f"{path}: holds no Trial of Katib")

    def rows(self) -> Iterator[tuple[PastTask, Row]]:
        """Yield each ended Trial with its Experiment."""
        for number, trial in enumerate(self._trials, 1):
            spec, metadata = _part(trial, "spec"), _part(trial, "metadata")
            namespace, name = _key(trial)
            labels = _part(metadata, "labels")
            owners = metadata.get("ownerReferences") or [{}]
            of = labels.get(EXPERIMENT) or owners[0].get("name") or name.rpartition("-")[0]
            key = (namespace, str(of))
            if key not in self._tasks:
                self._tasks[key] = self._task(key, spec)
            task = self._tasks[key]
            row = self._row(f"{namespace}/{of}", number, trial, task)
            if row is None:
                self.unfinished += 1
            else:
                yield task, row

    def _task(self, key: tuple[str, str], spec: dict[str, Any]) -> PastTask:
        experiment = _part(self._experiments.get(key, {}), "spec")
        objective = _part(experiment, "objective") or _part(spec, "objective")
        metric = str(objective.get("objectiveMetricName", "objective"))
        goal = Goal.MAXIMIZE if objective.get("type") == "maximize" else Goal.MINIMIZE
        reduce = Reduce.LAST if _strategy(objective, metric) == "latest" else Reduce.BEST
        target = objective.get("goal")
        return PastTask(
            name=job_name(key[1]),
            objective=Objective(
                metric=metric,
                goal=goal,
                target=float(target) if isinstance(target, int | float) else None,
                reduce=reduce,
            ),
            space=self._space(key[1], experiment.get("parameters")),
        )

    def _space(self, name: str, parameters: Any) -> Space | None:
        if not isinstance(parameters, list):
            return None
        try:
            space = Space(tuple(_parameter(one) for one in parameters))
            return parse_space(render_space(space), "space")
        except (InvalidInputError, KeyError, TypeError, ValueError) as error:
            first = str(error).partition("\n")[0]
            self.notes.append(f"experiment {name!r}: its space is not kept: {first}")
            return None

    def _row(self, place: str, number: int, trial: dict[str, Any], task: PastTask) -> Row | None:
        """Return what a Trial says; None for one that has not ended."""
        status, spec = _part(trial, "status"), _part(trial, "spec")
        met = {
            str(one.get("type")): one
            for one in status.get("conditions") or ()
            if isinstance(one, dict) and str(one.get("status")) == "True"
        }
        end = next((one for one in ENDS if one in met), None)
        if end is None:
            return None
        state, reason = ENDS[end]
        message = str(met[end].get("message", ""))[:MESSAGE]
        if state is TrialState.FAILED and OUT_OF_MEMORY in message:
            state, reason = TrialState.INFEASIBLE, EndReason.OUT_OF_MEMORY
        given = {
            str(one.get("name")): one.get("value")
            for one in spec.get("parameterAssignments") or ()
            if isinstance(one, dict)
        }
        params, problem = _params(given, task.space)
        objective = _part(spec, "objective")
        value, told = _observed(status, objective, task)
        if state.succeeded and value is None:
            problem = problem or f"{task.objective.metric}: no finite value, but {told!r}"
        start, done = _stamp(status.get("startTime")), _stamp(status.get("completionTime"))
        name = _key(trial)[1]
        return Row(
            task=place,
            key=name,
            line=number,
            raw={"trial": name, "condition": end, task.objective.metric: told, "params": given},
            problem=problem,
            params=params,
            state=state,
            reason=reason,
            value=value if state.succeeded else None,
            message="" if state.succeeded else message,
            counts_as_failure=state is TrialState.FAILED,
            seconds=max(0.0, done - start) if start is not None and done is not None else None,
            created_at=start,
            ended_at=done,
        )


def _objects(path: Path) -> list[dict[str, Any]]:
    """Return the Katib objects of a file: documents of YAML, JSON, and Lists of them."""
    try:
        text = path.read_text(encoding="utf-8-sig")
        loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
        if text.lstrip().startswith("{"):
            documents = [json.loads(text)]
        else:
            documents = list(yaml.load_all(text, Loader=loader))
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        what = str(error).replace("\n", " ")
        raise InvalidInputError(f"{path}: is neither YAML nor JSON: {what}") from None
    found: list[dict[str, Any]] = []
    for document in documents:
        items = document.get("items") if isinstance(document, dict) else None
        for one in items if isinstance(items, list) else [document]:
            if not isinstance(one, dict) or one.get("kind") not in {"Experiment", "Trial"}:
                continue
            if str(one.get("apiVersion", "")).startswith("kubeflow.org/"):
                found.append(one)
    return found


def _part(one: dict[str, Any], name: str) -> dict[str, Any]:
    found = one.get(name)
    return found if isinstance(found, dict) else {}


def _key(one: dict[str, Any]) -> tuple[str, str]:
    metadata = _part(one, "metadata")
    return str(metadata.get("namespace", "default")), str(metadata.get("name", ""))


def _strategy(objective: dict[str, Any], metric: str) -> str:
    """Return which of a metric's values counts: `min`, `max` or `latest`."""
    for one in objective.get("metricStrategies") or ():
        if isinstance(one, dict) and one.get("name") == metric:
            return str(one.get("value"))
    return "max" if objective.get("type") == "maximize" else "min"


def _observed(
    status: dict[str, Any], objective: dict[str, Any], task: PastTask
) -> tuple[float | None, Any]:
    """Return the value of the objective, and what stands there."""
    metric = task.objective.metric
    default = {"type": task.objective.goal.value}
    for one in _part(status, "observation").get("metrics") or ():
        if isinstance(one, dict) and one.get("name") == metric:
            told = one.get(_strategy(objective or default, metric))
            told = one.get("latest") if told is None or told == "unavailable" else told
            number = cells.number(told)
            finite = number is not None and math.isfinite(number)
            return (float(number) if finite and number is not None else None), told
    return None, None


def _params(given: dict[str, Any], space: Space | None) -> tuple[Params, str]:
    """Return the values of a Trial's parameters, which Katib keeps as texts, and what is wrong with them."""
    params: Params = {}
    for name, text in given.items():
        known = space[name] if space is not None and name in space.names else None
        value = str(text) if isinstance(known, Choice) else cells.value(text)
        if value is not None:
            params[name] = value
    if not params:
        return params, "no parameter has a value"
    return params, outside(space, params) if space is not None else ""


def _parameter(one: dict[str, Any]) -> Parameter:
    """Return a parameter of an Experiment; raises `KeyError`, `ValueError` or `InvalidSpaceError`."""
    name, kind, feasible = str(one["name"]), one["parameterType"], one.get("feasibleSpace") or {}
    if kind in {"discrete", "categorical"}:
        options: list[Value] = [str(item) for item in feasible["list"]]
        if kind == "categorical":
            return Choice(name=name, options=tuple(options))
        return Ordinal(name=name, options=tuple(sorted(_number(item) for item in options)))
    low, high = _number(feasible["min"]), _number(feasible["max"])
    if low == high:
        return Const(name=name, value=low)
    step = _number(feasible["step"]) if feasible.get("step") else None
    scale = Scale.LOG if feasible.get("distribution") in LOGARITHMIC else Scale.LINEAR
    if kind == "int":
        return Int(name=name, low=low, high=high, step=step or 1, scale=scale)
    return Float(name=name, low=float(low), high=float(high), step=step, scale=scale)


def _number(text: Any) -> float | int:
    found = cells.number(text)
    if found is None:
        raise InvalidInputError(f"{text!r} is no number")
    return int(found) if float(found).is_integer() else found


def _stamp(text: Any) -> float | None:
    """Return Unix seconds of a time as Kubernetes writes it; of a YAML timestamp too."""
    if isinstance(text, datetime):
        return text.timestamp()
    return datetime.fromisoformat(text).timestamp() if isinstance(text, str) else None
