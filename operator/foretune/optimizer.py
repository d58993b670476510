"""Foretune without Kubernetes: the operator's own designers, for notebooks, scripts and benchmarks.

    from foretune.optimizer import Optimizer

    opt = Optimizer({"lr": {"min": 0.0001, "max": 0.1, "scale": "log"}}, goal="minimize")
    for suggestion in opt.suggest(n=4):
        opt.observe(suggestion.id, value=train(**suggestion.params))
    print(opt.best)

Importing this module is light: torch is loaded when the first model is fitted. Every error is a
`ValueError` of `foretune.errors`; `SpaceExhaustedError` says that nothing is left to try.
"""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, overload

from foretune.api.space import parse_space
from foretune.domain.job import Algorithm, Goal, Objective
from foretune.domain.space import Params, Space, Value
from foretune.domain.trial import EndReason, Trial, TrialState
from foretune.errors import InvalidInputError, InvalidObservationError, SpaceExhaustedError
from foretune.search.designer import Deadline, Problem, SourceTask, designer_for, split

__all__ = ["Observation", "Optimizer", "Suggestion", "TaskHistory"]

FAILURES: Final[Mapping[str, tuple[TrialState, EndReason]]] = {
    "oom": (TrialState.INFEASIBLE, EndReason.OUT_OF_MEMORY),
    "diverged": (TrialState.INFEASIBLE, EndReason.DIVERGED),
    "error": (TrialState.FAILED, EndReason.ERROR),
}
"""Words for `failure`, and what they mean to a designer."""

STARTER: Final = "starter"
"""Word for the prior that ships, as `history`; a file of that name is `./starter`."""

SQLITE_MAGIC: Final = b"SQLite format 3\x00"
"""First bytes of a history database."""


@dataclass(frozen=True)
class Suggestion:
    """A configuration to try."""

    id: str
    """What `Optimizer.observe` takes."""
    params: Params
    """Plain Python values by parameter name."""
    proposer: str = ""
    """`default`, `sobol`, `gp`, ...: who proposed it."""
    detail: Mapping[str, Any] = field(default_factory=dict, repr=False)
    """Audit: predicted mean and sd, and what the model saw."""


@dataclass(frozen=True)
class Observation:
    """The outcome of one configuration: a value, or a failure.

    Raises `InvalidObservationError` for neither or both, numbers that are not finite, unknown words.
    """

    params: Mapping[str, Value]
    value: float | None = None
    """The objective, in its own unit."""
    failure: str | None = None
    """`oom`, `diverged` or `error`."""
    cost: float | None = None
    """What it cost, in any unit that is the same throughout (GPU seconds, say)."""
    curve: Sequence[tuple[float, float]] | None = None
    """(epochs or steps, objective) pairs in rising order."""

    def __post_init__(self) -> None:
        """Check everything, and keep plain Python values."""
        object.__setattr__(self, "params", _params(self.params))
        if (self.value is None) == (self.failure is None):
            what = "neither is" if self.value is None else "both are"
            raise InvalidObservationError(f"value, failure: give exactly one of them; {what} given")
        if self.failure is not None and self.failure not in FAILURES:
            words = ", ".join(FAILURES)
            raise InvalidObservationError(f"failure: must be one of {words}, not {self.failure!r}")
        if self.value is not None:
            hint = '; report a diverged trial as failure="diverged"'
            object.__setattr__(self, "value", _finite("value", self.value, hint))
        if self.cost is not None:
            cost = _finite("cost", self.cost)
            if cost < 0:
                raise InvalidObservationError(f"cost: must not be negative, not {cost:g}")
            object.__setattr__(self, "cost", cost)
        if self.curve is not None:
            object.__setattr__(self, "curve", _curve(self.curve))


@dataclass(frozen=True)
class TaskHistory:
    """Observations of another task, to learn from.

    Raises `InvalidInputError` for a wrong goal or observations, and those that do not fit `space`.
    """

    name: str
    observations: Sequence[Observation]
    goal: str = "minimize"
    metric: str = "val_loss"
    space: Mapping[str, Any] | Space | None = None
    """The space that was searched, where it is known: as in a manifest."""
    context: Mapping[str, Any] = field(default_factory=dict)
    """What the task is about (model, dataset, ...)."""

    def __post_init__(self) -> None:
        """Check everything."""
        _text("name", self.name)
        if not isinstance(self.observations, Iterable):
            raise InvalidObservationError(
                f"{self.name}: observations: must be a sequence of Observation, "
                f"not {type(self.observations).__name__}"
            )
        observations = tuple(self.observations)
        for i, observation in enumerate(observations):
            if not isinstance(observation, Observation):
                raise InvalidObservationError(
                    f"{self.name}: observations[{i}]: must be an Observation, "
                    f"not {type(observation).__name__}"
                )
        object.__setattr__(self, "observations", observations)
        _objective(self.goal, self.metric)
        object.__setattr__(self, "context", _context(self.context))
        if self.space is not None:
            space = _space(self.space)
            object.__setattr__(self, "space", space)
            for i, observation in enumerate(observations):
                _fits(space, observation.params, f"{self.name}: observations[{i}]")

    def task(self, *, limit: int | None = None) -> SourceTask:
        """Return what designers read of the history: of many rows at most `limit`, by default 600.

        All rows decide what is kept and what is set aside; no copy of them is held.
        """
        from foretune.search.condense import KEPT, condensed  # noqa: PLC0415 - numpy, when it is used

        space = self.space if isinstance(self.space, Space) else None
        objective = _objective(self.goal, self.metric)
        head = SourceTask(self.name, objective, (), space, _context(self.context))
        trials = _Trials(self.name, self.observations)
        return condensed(head, trials, limit=KEPT if limit is None else limit)


class _Trials(Sequence[Trial]):
    """Observations as trials, each made when it is looked at."""

    def __init__(self, name: str, observations: Sequence[Observation]) -> None:
        self._name = name
        self._observations = observations

    def __len__(self) -> int:
        return len(self._observations)

    @overload
    def __getitem__(self, index: int) -> Trial: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[Trial]: ...

    def __getitem__(self, index: int | slice) -> Trial | Sequence[Trial]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        observation = self._observations[index]
        return _trial(self._name, index, dict(observation.params), observation)


class Optimizer:
    """Suggests configurations and learns from what came of them. May be shared by threads.

    The same arguments, observations and calls give the same suggestions.
    """

    def __init__(  # noqa: PLR0917 - a documented public signature
        self,
        space: Mapping[str, Any] | Space,
        goal: str = "minimize",
        metric: str = "val_loss",
        seed: int = 0,
        algorithm: str = "auto",
        history: str | os.PathLike[str] | Sequence[TaskHistory] | None = None,
        context: Mapping[str, Any] | None = None,
        *,
        candidates: Sequence[Mapping[str, Value]] | None = None,
        budget_cost: float | None = None,
    ) -> None:
        """Search `space`, the mapping of a manifest's `spec.space`.

        `history` is the path of a history database, tasks to learn from, or `"starter"`: the prior that
        ships, for a start where values have been good elsewhere. `context` says what the task is about
        (model, dataset, ...). With `candidates` only these configurations are suggested.
        `budget_cost` is what all trials together may cost, in the unit of `Observation.cost`: cheap
        configurations come first then; without it only the number of trials counts. Raises
        `InvalidInputError` naming what is wrong.
        """
        starter = isinstance(history, str) and history == STARTER
        self._history_path, tasks = _history(None if starter else history)
        parsed = _space(space)
        self._problem: Final = Problem(
            space=parsed,
            objective=_objective(goal, metric),
            seed=_whole("seed", seed),
            context=_context(context or {}),
            history=tasks,
            starter=_starter() if starter else (),
            candidates=_candidates(parsed, candidates),
        )
        try:
            self._algorithm: Final = Algorithm(algorithm)
        except ValueError:
            names = ", ".join(a.value for a in Algorithm)
            raise InvalidInputError(
                f"algorithm: must be one of {names}, not {algorithm!r}"
            ) from None
        self._budget: Final = _budget(budget_cost)
        self._trials: list[Trial] = []
        self._observations: dict[int, Observation] = {}
        self._lock = threading.RLock()

    @property
    def space(self) -> Space:
        """The space that is searched."""
        return self._problem.space

    @property
    def history(self) -> Path | tuple[SourceTask, ...]:
        """Where the history is, or the tasks that were given (the starter's are not among them)."""
        return self._history_path or self._problem.history

    @property
    def observations(self) -> list[Observation]:
        """Everything observed so far, in the order of the suggestions."""
        with self._lock:
            return [self._observations[index] for index in sorted(self._observations)]

    @property
    def pending(self) -> list[str]:
        """Ids of suggestions that have no outcome yet."""
        with self._lock:
            return [_id(trial.index) for trial in self._trials if not trial.state.terminal]

    @property
    def best(self) -> Observation | None:
        """The best observation so far; None while there is none with a value."""
        best: Observation | None = None
        for observation in self.observations:
            if observation.value is None:
                continue
            if (
                best is None
                or best.value is None
                or self._problem.objective.better(observation.value, best.value)
            ):
                best = observation
        return best

    def suggest(self, n: int = 1) -> list[Suggestion]:
        """Return `n` configurations to try, none of which was suggested or observed before.

        They count as running until they are observed. Near the end of a finite space there may be fewer;
        raises `SpaceExhaustedError` when there is none.
        """
        if _whole("n", n) < 1:
            raise InvalidInputError(f"n: must be at least 1, not {n}")
        with self._lock:
            found: list[Suggestion] = []
            for _ in range(n):
                try:
                    found.append(self._next())
                except SpaceExhaustedError:
                    if not found:
                        raise
                    break
            return found

    def observe(
        self,
        which: str | Mapping[str, Value],
        *,
        value: float | None = None,
        failure: str | None = None,
        cost: float | None = None,
        curve: Sequence[tuple[float, float]] | None = None,
    ) -> Observation:
        """Record the outcome of a suggestion, by its id, or of any configuration, by its parameters.

        Give `value`, or `failure` ("oom", "diverged", "error"). Raises `InvalidObservationError` for an
        unknown id, one that was observed already, or parameters outside the space.
        """
        with self._lock:
            trial = self._by_id(which) if isinstance(which, str) else self._by_params(which)
            observation = Observation(
                params=trial.params, value=value, failure=failure, cost=cost, curve=curve
            )
            ended = _trial(trial.job_uid, trial.index, trial.params, observation)
            self._trials[trial.index : trial.index + 1] = [replace(ended, proposer=trial.proposer)]
            self._observations[trial.index] = observation
            return observation

    def _next(self) -> Suggestion:
        completed, pending = split(self._trials)
        designer = designer_for(self._algorithm)
        problem = self._problem
        if self._budget is not None:
            problem = replace(problem, budget=self._share_left(self._budget, completed.trials))
        proposed = designer.suggest(problem, completed, pending, Deadline(math.inf))
        index = len(self._trials)
        self._trials.append(
            Trial(
                job_uid="optimizer",
                index=index,
                params=proposed.params,
                state=TrialState.RUNNING,
                config_hash="",
                proposer=proposed.proposer,
            )
        )
        return Suggestion(_id(index), dict(proposed.params), proposed.proposer, proposed.detail)

    @staticmethod
    def _share_left(budget: float, ended: Sequence[Trial]) -> float:
        """Return the share of the budget that is left; a trial of unknown cost counts as the average."""
        costs = [trial.cost for trial in ended if trial.cost is not None]
        spent = math.fsum(costs) / len(costs) * len(ended) if costs else 0.0
        return max(0.0, 1.0 - spent / budget)

    def _by_id(self, which: str) -> Trial:
        for trial in self._trials:
            if _id(trial.index) == which:
                if trial.state.terminal:
                    raise InvalidObservationError(f"id {which!r}: was observed already")
                return trial
        raise InvalidObservationError(
            f"id: no suggestion is called {which!r}; give the id of a suggestion or its parameters"
        )

    def _by_params(self, which: Mapping[str, Value]) -> Trial:
        params = _params(which)
        _fits(self.space, params, "params")
        key = self.space.key(params)
        for trial in self._trials:
            if not trial.state.terminal and self.space.key(trial.params) == key:
                return trial
        return Trial(
            job_uid="optimizer",
            index=len(self._trials),
            params={name: params[name] for name in self.space.names},
            state=TrialState.RUNNING,
            config_hash="",
            proposer="user",
        )


def _trial(job_uid: str, index: int, params: Params, observation: Observation) -> Trial:
    state, reason = TrialState.COMPLETED, EndReason.DONE
    if observation.failure is not None:
        state, reason = FAILURES[observation.failure]
    return Trial(
        job_uid=job_uid,
        index=index,
        params=params,
        state=state,
        config_hash="",
        value=observation.value,
        reason=reason,
        cost=observation.cost,
    )


def _id(index: int) -> str:
    return f"{index:04d}"


def _plain(value: Any) -> Any:
    """Return a numpy or torch scalar as the Python value it holds; anything else as it is."""
    item = getattr(value, "item", None)
    if not callable(item):
        return value
    try:
        return item()
    except (ValueError, RuntimeError):  # an array of several: what is wrong is said by the caller
        return value


def _finite(name: str, value: Any, hint: str = "") -> float:
    number = _plain(value)
    if isinstance(number, bool) or not isinstance(number, int | float):
        raise InvalidObservationError(f"{name}: must be a number, not {value!r}")
    try:
        finite = math.isfinite(number)
    except OverflowError:  # an integer beyond all floats
        raise InvalidObservationError(f"{name}: is too large to be a number{hint}") from None
    if not finite:
        raise InvalidObservationError(f"{name}: must be finite, not {number}{hint}")
    return float(number)


def _whole(name: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise InvalidInputError(f"{name}: must be a whole number, not {value!r}")
    return value


def _budget(value: Any) -> float | None:
    if value is None:
        return None
    number = _plain(value)
    real = isinstance(number, int | float) and not isinstance(number, bool)
    if not real or not math.isfinite(number) or number <= 0:
        raise InvalidInputError(f"budget_cost: must be a finite number above 0, not {value!r}")
    return float(number)


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise InvalidInputError(f"{name}: must be a text that is not empty, not {value!r}")
    return value


def _params(value: Any) -> Params:
    if not isinstance(value, Mapping) or not value:
        raise InvalidObservationError(
            f"params: must be a mapping of parameter names to values, not {value!r}"
        )
    return {str(name): _plain(item) for name, item in value.items()}


def _curve(curve: Any) -> tuple[tuple[float, float], ...]:
    if not isinstance(curve, Iterable):
        raise InvalidObservationError(f"curve: must be pairs (epoch, value), not {curve!r}")
    points: list[tuple[float, float]] = []
    for i, point in enumerate(curve):
        try:
            resource, value = point
        except (TypeError, ValueError):
            raise InvalidObservationError(
                f"curve[{i}]: must be a pair (epoch, value), not {point!r}"
            ) from None
        pair = _finite(f"curve[{i}]", resource), _finite(f"curve[{i}]", value)
        if points and pair[0] <= points[-1][0]:
            raise InvalidObservationError(
                f"curve[{i}]: epochs must rise; {pair[0]:g} comes after {points[-1][0]:g}"
            )
        points.append(pair)
    return tuple(points)


def _space(space: Any) -> Space:
    return space if isinstance(space, Space) else parse_space(space, "space")


def _objective(goal: str, metric: str) -> Objective:
    try:
        direction = Goal(goal)
    except ValueError:
        raise InvalidInputError(f"goal: must be minimize or maximize, not {goal!r}") from None
    return Objective(metric=_text("metric", metric), goal=direction)


def _context(context: Any) -> dict[str, str]:
    if not isinstance(context, Mapping):
        raise InvalidInputError(f"context: must be a mapping, not {context!r}")
    return {str(name): str(value) for name, value in context.items()}


def _fits(space: Space, params: Mapping[str, Value], where: str) -> None:
    problems = space.problems(params)
    if problems:
        raise InvalidObservationError(f"{where}: " + "; ".join(problems))


def _candidates(space: Space, candidates: Any) -> tuple[Params, ...]:
    if candidates is None:
        return ()
    found = tuple(_params(candidate) for candidate in candidates)
    if not found:
        raise InvalidInputError("candidates: must not be empty; None allows the whole space")
    for i, params in enumerate(found):
        _fits(space, params, f"candidates[{i}]")
    return tuple({name: params[name] for name in space.names} for params in found)


def _starter() -> tuple[SourceTask, ...]:
    from foretune.app.starter import starter_tasks  # noqa: PLC0415 - numpy, only when used

    return starter_tasks()


def _history(history: Any) -> tuple[Path | None, tuple[SourceTask, ...]]:
    if history is None:
        return None, ()
    if isinstance(history, str | os.PathLike):
        path = Path(history)
        if not path.is_file():
            raise InvalidInputError(f"history: there is no file {path}")
        with path.open("rb") as file:
            if file.read(len(SQLITE_MAGIC)) != SQLITE_MAGIC:
                raise InvalidInputError(f"history: {path} is not a history database (SQLite)")
        from foretune.app.history import tasks_of_file  # noqa: PLC0415 - SQLAlchemy, only when used

        return path, tasks_of_file(path)
    if not isinstance(history, Sequence):
        raise InvalidInputError(
            f"history: must be a path or a sequence of TaskHistory, not {type(history).__name__}"
        )
    for i, task in enumerate(history):
        if not isinstance(task, TaskHistory):
            raise InvalidInputError(
                f"history[{i}]: must be a TaskHistory, not {type(task).__name__}"
            )
    from foretune.search.condense import limit_for  # noqa: PLC0415 - numpy, when it is used

    limit = limit_for(len(history))
    return None, tuple(task.task(limit=limit) for task in history)
