"""Past tasks over HTTP: named by digest in a request, sent when they are asked for, kept by who answers.

A history is the same from one request of a job to the next, and large beside the job's own trials. So a
request only names its tasks. Who lacks some says which, and gets the same request once more with these.
Nothing depends on what is kept: it only spares sending.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections import OrderedDict
from typing import TYPE_CHECKING, Final

from pydantic import BaseModel, ConfigDict, Field, JsonValue

from foretune.api.space import parse_space, render_space
from foretune.domain.history import SourceTask
from foretune.domain.job import Goal, Objective, Reduce
from foretune.domain.trial import EndReason, Trial, TrialState
from foretune.errors import ForetuneError

if TYPE_CHECKING:
    from collections.abc import Sequence

MAX_TASKS: Final = 64
"""Past tasks of one request."""

KEPT_TASKS: Final = 256
"""Past tasks kept by either side, the last used; one of 200 rows takes some 150 KiB."""

KEPT_HISTORIES: Final = 64
"""Histories (choices of tasks) kept by who answers: jobs that are tuned at the same time."""

HISTORY_LIMIT: Final = 8 * 1024 * 1024
"""Bytes of all tasks of a request, half of what a request may have; the least relevant are left out."""


class WireModel(BaseModel):
    """Base of what is sent: nothing unknown, nothing changed."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class WireObjective(WireModel):
    """The objective."""

    metric: str
    goal: Goal = Goal.MAXIMIZE
    target: float | None = None
    reduce: Reduce = Reduce.BEST


class WireTrial(WireModel):
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


class WireTask(WireModel):
    """A past task."""

    name: str
    objective: WireObjective
    trials: list[WireTrial] = Field(max_length=10_000)
    space: dict[str, JsonValue] | None = None
    context: dict[str, str] = Field(default={})

    def text(self) -> str:
        """Return it as JSON, the same for the same task."""
        fields = self.model_dump(mode="json", exclude_defaults=True)
        return json.dumps(fields, sort_keys=True, separators=(",", ":"), allow_nan=False)


class TasksMissingError(ForetuneError):
    """Whoever answers does not have these tasks; temporary: send them along."""

    def __init__(self, missing: Sequence[str]) -> None:
        """Keep the digests."""
        super().__init__(f"{len(missing)} past tasks are not known here: send them along")
        self.missing = tuple(missing)


def objective_to_wire(objective: Objective) -> WireObjective:
    """Return an objective as it is sent."""
    return WireObjective(
        metric=objective.metric,
        goal=objective.goal,
        target=objective.target,
        reduce=objective.reduce,
    )


def trial_to_wire(trial: Trial) -> WireTrial:
    """Return a trial as it is sent."""
    return WireTrial(**{name: getattr(trial, name) for name in WireTrial.model_fields})


def trial_from_wire(job_uid: str, trial: WireTrial) -> Trial:
    """Return a trial that was sent."""
    return Trial(job_uid=job_uid, config_hash="", **dict(trial))


def task_to_wire(task: SourceTask) -> WireTask:
    """Return a past task as it is sent."""
    return WireTask(
        name=task.name,
        objective=objective_to_wire(task.objective),
        trials=[trial_to_wire(trial) for trial in task.trials],
        space=render_space(task.space) if task.space is not None else None,
        context=dict(task.context),
    )


def task_from_wire(task: WireTask) -> SourceTask:
    """Return a past task that was sent; raises `InvalidInputError` for one that is none."""
    return SourceTask(
        name=task.name,
        objective=Objective(**dict(task.objective)),
        trials=tuple(trial_from_wire("", trial) for trial in task.trials),
        space=parse_space(task.space, "space") if task.space is not None else None,
        context=task.context,
    )


def digest(text: str) -> str:
    """Return the name of a task of which this is the JSON."""
    return hashlib.sha256(text.encode()).hexdigest()


class Named:
    """Who asks: the digest of each task, worked out once for the same object. Thread-safe."""

    def __init__(self) -> None:
        """Start with none."""
        self._lock = threading.Lock()
        self._known: OrderedDict[int, tuple[SourceTask, str, int]] = OrderedDict()

    def names(self, history: Sequence[SourceTask]) -> dict[str, SourceTask]:
        """Return the tasks by digest, in their order, without those behind `HISTORY_LIMIT`."""
        found: dict[str, SourceTask] = {}
        total = 0
        for task in history[:MAX_TASKS]:
            name, size = self._name(task)
            total += size
            if total > HISTORY_LIMIT:
                break
            found[name] = task
        return found

    def _name(self, task: SourceTask) -> tuple[str, int]:
        key = id(task)  # the object is kept, so that its id stays its own
        with self._lock:
            known = self._known.get(key)
            if known is not None:
                self._known.move_to_end(key)
                return known[1:]
        text = task_to_wire(task).text()
        made = (digest(text), len(text))
        with self._lock:
            self._known[key] = (task, *made)
            while len(self._known) > KEPT_TASKS:
                self._known.popitem(last=False)
        return made


class TaskCache:
    """Who answers: tasks by digest, and the same tuple for the same tasks. Thread-safe."""

    def __init__(self) -> None:
        """Start with none."""
        self._lock = threading.Lock()
        self._tasks: OrderedDict[str, SourceTask] = OrderedDict()
        self._histories: OrderedDict[tuple[str, ...], tuple[SourceTask, ...]] = OrderedDict()

    def history(self, names: Sequence[str], sent: Sequence[WireTask]) -> tuple[SourceTask, ...]:
        """Return the tasks of these names, taking in those that were sent.

        Raises `TasksMissingError` naming all that are not there, `InvalidInputError` for a task that is
        none.
        """
        taken = {digest(task.text()): task_from_wire(task) for task in sent}
        key = tuple(names)
        with self._lock:
            known = self._histories.get(key)
            if known is None:
                known = self._assembled(key, taken)
                self._histories[key] = known
            self._histories.move_to_end(key)
            while len(self._histories) > KEPT_HISTORIES:
                self._histories.popitem(last=False)
        return known

    def _assembled(
        self, names: tuple[str, ...], taken: dict[str, SourceTask]
    ) -> tuple[SourceTask, ...]:
        for name, task in taken.items():
            self._tasks.setdefault(name, task)
        missing = [name for name in names if name not in self._tasks]
        for name in names:
            if name in self._tasks:
                self._tasks.move_to_end(name)
        while len(self._tasks) > max(KEPT_TASKS, len(names)):
            self._tasks.popitem(last=False)
        if missing:
            raise TasksMissingError(missing)
        return tuple(self._tasks[name] for name in names)


__all__ = [
    "MAX_TASKS",
    "Named",
    "TaskCache",
    "TasksMissingError",
    "WireModel",
    "WireObjective",
    "WireTask",
    "WireTrial",
    "objective_to_wire",
    "task_to_wire",
    "trial_from_wire",
    "trial_to_wire",
]
