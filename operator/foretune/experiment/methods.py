"""The methods that are compared, all behind one small interface: ask for configurations, tell outcomes."""

from __future__ import annotations

import importlib
import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Protocol

from foretune.domain.job import Goal, Objective
from foretune.domain.space import Params, Space
from foretune.domain.trial import EndReason, Trial, TrialState
from foretune.errors import InvalidInputError
from foretune.experiment.resources import PeakMemory, cpu_s
from foretune.optimizer import Optimizer, TaskHistory
from foretune.search.designer import Deadline, Problem, split

if TYPE_CHECKING:
    from foretune.search.designer import Designer

PAST_BESTS: Final = 10
"""Most configurations of past tasks that `past-bests` tries before it models."""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One run, as a method sees it."""

    space: Space
    objective: Objective
    seed: int
    budget: int
    batch: int = 1
    context: Mapping[str, str] = field(default_factory=dict)
    history: tuple[TaskHistory, ...] = ()
    candidates: tuple[Params, ...] = ()
    """The rows that may be proposed; empty allows the whole space."""


@dataclass(frozen=True, kw_only=True)
class Ask:
    """A configuration to evaluate, and what its proposer expects of it."""

    params: Params
    token: str = ""
    """The session's own name for it."""
    proposer: str = ""
    mean: float | None = None
    sd: float | None = None
    """Of a new measurement: the model's own doubt and its noise together."""


class Session(Protocol):
    """One run of a method."""

    def ask(self, n: int) -> list[Ask]:
        """Return `n` configurations to evaluate side by side."""

    def tell(self, ask: Ask, params: Params, value: float | None, cost: float | None) -> None:
        """Take the outcome (None: it failed) of what was asked, measured at `params`."""

    def cpu_s(self) -> float:
        """Return CPU seconds that the method has used so far, in whatever process it runs."""

    def grown_mib(self) -> float:
        """Return how much memory the method has grown by since it started, at its peak."""

    def close(self) -> None:
        """Free what the run held."""


Method = Callable[[Setting], Session]
"""Starts a run."""


class InProcess:
    """What sessions share that run in this process."""

    def __init__(self) -> None:
        """Measure from here."""
        self._memory = PeakMemory()

    def cpu_s(self) -> float:
        """Return CPU seconds of this process."""
        return cpu_s()

    def grown_mib(self) -> float:
        """Return the growth of this process."""
        return self._memory.grown_mib()

    def close(self) -> None:
        """Nothing is held."""


class OptimizerSession(InProcess):
    """`foretune.optimizer.Optimizer`, as a user calls it; `first` are configurations tried before."""

    def __init__(
        self,
        setting: Setting,
        algorithm: str,
        *,
        history: bool = False,
        first: Sequence[Params] = (),
    ) -> None:
        """Start an optimizer, with the setting's history or without any."""
        super().__init__()
        self._first = list(first)
        self._optimizer = Optimizer(
            setting.space,
            goal=setting.objective.goal.value,
            metric=setting.objective.metric,
            seed=setting.seed,
            algorithm=algorithm,
            history=setting.history if history and setting.history else None,
            context=setting.context,
            candidates=setting.candidates or None,
        )

    def ask(self, n: int) -> list[Ask]:
        """Return the first configurations, then what the designer suggests."""
        early = [Ask(params=params, proposer="past-best") for params in self._first[:n]]
        del self._first[:n]
        if len(early) == n:
            return early
        suggestions = self._optimizer.suggest(n - len(early))
        return early + [
            Ask(
                params=dict(s.params),
                token=s.id,
                proposer=s.proposer,
                **expected(s.detail),
            )
            for s in suggestions
        ]

    def tell(self, ask: Ask, params: Params, value: float | None, cost: float | None) -> None:
        """Observe it."""
        failure = "diverged" if value is None else None
        self._optimizer.observe(ask.token or params, value=value, failure=failure, cost=cost)


class DesignerSession(InProcess):
    """Any designer, called as the suggestion service calls it: for ablations."""

    def __init__(self, setting: Setting, designer: Designer) -> None:
        """Start with no trials."""
        super().__init__()
        self._designer = designer
        self._trials: list[Trial] = []
        self._problem = Problem(
            space=setting.space,
            objective=setting.objective,
            seed=setting.seed,
            context=setting.context,
            history=tuple(task.task() for task in setting.history),
            candidates=setting.candidates,
        )

    def ask(self, n: int) -> list[Ask]:
        """Return what the designer suggests, each suggestion pending for the next."""
        return [self._next() for _ in range(n)]

    def _next(self) -> Ask:
        completed, pending = split(self._trials)
        found = self._designer.suggest(self._problem, completed, pending, Deadline(math.inf))
        index = len(self._trials)
        self._trials.append(self._trial(index, found.params, proposer=found.proposer))
        return Ask(
            params=found.params,
            token=str(index),
            proposer=found.proposer,
            **expected(found.detail),
        )

    def tell(self, ask: Ask, params: Params, value: float | None, cost: float | None) -> None:  # noqa: ARG002
        """End the trial, where it was measured."""
        index = int(ask.token)
        if value is None:
            state, reason = TrialState.INFEASIBLE, EndReason.DIVERGED
        else:
            state, reason = TrialState.COMPLETED, EndReason.DONE
        self._trials[index] = self._trial(
            index,
            params,
            proposer=self._trials[index].proposer,  # a guard counts whose turns there were
            state=state,
            reason=reason,
            value=value,
        )

    @staticmethod
    def _trial(index: int, params: Params, **changes: Any) -> Trial:
        values: dict[str, Any] = {"state": TrialState.RUNNING, **changes}
        return Trial(job_uid="replay", index=index, params=params, config_hash="", **values)


def expected(detail: Mapping[str, Any]) -> dict[str, float | None]:
    """Return mean and sd of a new measurement, where an audit has them."""
    mean, sd = detail.get("mean"), detail.get("sd")
    if mean is None or sd is None:
        return {"mean": None, "sd": None}
    return {"mean": float(mean), "sd": math.hypot(float(sd), float(detail.get("noise_sd") or 0.0))}


def past_bests(setting: Setting) -> list[Params]:
    """Return the best configuration of each past task that the space allows, in a seeded order."""
    found: dict[str, Params] = {}
    for task in setting.history:
        valued = [o for o in task.observations if o.value is not None]
        if not valued:
            continue
        sign = -1.0 if Goal(task.goal) is Goal.MAXIMIZE else 1.0
        best = min(valued, key=lambda o: sign * (o.value or 0.0))
        if not setting.space.problems(best.params):
            found[setting.space.key(best.params)] = dict(best.params)
    order = list(found.values())
    random.Random(f"past-bests/{setting.seed}").shuffle(order)  # noqa: S311 - not cryptography
    return order[:PAST_BESTS]


WITHOUT_HISTORY: Final = frozenset(
    {"random", "sobol", "plain", "no-history", "optuna-tpe", "optuna-gp"}
)
"""Methods that are given no history: one run of them stands for every history, sound, spoilt or short."""

METHODS: Final[Mapping[str, Method]] = {
    "random": lambda setting: OptimizerSession(setting, "random"),
    "sobol": lambda setting: OptimizerSession(setting, "sobol"),
    "plain": lambda setting: OptimizerSession(setting, "gp"),
    "past-bests": lambda setting: OptimizerSession(setting, "gp", first=past_bests(setting)),
    "ours": lambda setting: OptimizerSession(setting, "auto", history=True),
    "no-history": lambda setting: OptimizerSession(setting, "auto"),
}
"""Methods that need nothing but the package."""

ABLATIONS: Final[Mapping[str, str]] = {
    "kernel-only": "foretune.search.variants:kernel_only",
    "hyperbo": "foretune.search.variants:hyperbo",
    "no-guard": "foretune.search.variants:no_guard",
}
"""Ours with parts taken out, by the function that makes them."""


def method(name: str) -> Method:
    """Return a method of `METHODS` or `ABLATIONS`, a peer (`optuna-tpe`), or `name=module:function`, a designer to try.

    The function takes nothing and returns a designer. Raises `InvalidInputError` for a name that is none,
    and for a peer whose environment was not made.
    """
    from foretune.experiment import peers  # noqa: PLC0415 - it imports this module

    label, _, place = name.partition("=")
    place = place or ABLATIONS.get(label, "")
    if place:
        return _designer(label, place)
    if label in METHODS:
        return METHODS[label]
    if label in peers.PEERS:
        peers.interpreter(label)
        return lambda setting: peers.PeerSession(label, setting)
    known = ", ".join((*METHODS, *ABLATIONS, *peers.PEERS))
    raise InvalidInputError(f"method: must be one of {known} or NAME=MODULE:FUNCTION, not {name!r}")


def _designer(label: str, place: str) -> Method:
    module, _, function = place.partition(":")
    try:
        make: Callable[[], Designer] = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise InvalidInputError(f"method {label}: {place} can't be imported: {error}") from None
    return lambda setting: DesignerSession(setting, make())
