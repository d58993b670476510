"""What a designer is: a pure function from everything known to the next configuration.

The words are those of Google Vizier: a problem, completed trials, pending (active) trials, a suggestion.
The operator, local mode and the Python API use the same designers through this protocol, and
`tests/conformance/test_designers.py` holds the one suite that every registered designer passes.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from foretune.domain.history import SourceTask as SourceTask  # noqa: PLC0414 - found here, too
from foretune.domain.job import Algorithm, Objective
from foretune.domain.space import Params, Space
from foretune.domain.trial import EndReason, Trial, TrialState
from foretune.errors import InvalidInputError, SuggestionUnavailableError

LESSON_OF_FAILURE: Final = frozenset(
    {EndReason.OUT_OF_MEMORY, EndReason.DIVERGED, EndReason.ERROR, EndReason.TIMED_OUT}
)
"""Ends that say something about the configuration. A wrong metric name, a lost node or a deleted job
say nothing about it: such trials enter no model, yet their configurations are not proposed again."""


@dataclass(frozen=True, kw_only=True)
class Problem:
    """What is searched, in which direction, and what is known from elsewhere."""

    space: Space
    objective: Objective
    seed: int = 0
    initial: int | None = None
    """Trials before a model proposes; None lets the designer choose."""
    context: Mapping[str, str] = field(default_factory=dict)
    """What the job is about (model, dataset, ...)."""
    history: tuple[SourceTask, ...] = ()
    starter: tuple[SourceTask, ...] = ()
    """Tasks of other places, to start with where `history` says nothing: the same object each time."""
    candidates: tuple[Params, ...] = ()
    """The only configurations that may be proposed; empty allows the whole space."""
    budget: float | None = None
    """Share of the budget of cost that is left, in [0, 1]; None where only the number of trials counts."""


@dataclass(frozen=True)
class Completed:
    """Trials that have ended, sorted by index. Raises `InvalidInputError` for any other."""

    trials: tuple[Trial, ...]

    def __init__(self, trials: Sequence[Trial] = ()) -> None:
        """Sort `trials` by index; refuse one that has not ended."""
        open_ones = [trial.index for trial in trials if not trial.state.terminal]
        if open_ones:
            raise InvalidInputError(f"completed: trial {open_ones[0]} has not ended")
        object.__setattr__(self, "trials", tuple(sorted(trials, key=lambda t: t.index)))

    @property
    def valued(self) -> tuple[Trial, ...]:
        """Trials with an objective to learn from."""
        return tuple(t for t in self.trials if is_valued(t))

    @property
    def failures(self) -> tuple[Trial, ...]:
        """Trials whose failure is a lesson about their configuration."""
        return tuple(t for t in self.trials if is_lesson(t))


_VALUED: Final = frozenset({TrialState.COMPLETED, TrialState.EARLY_STOPPED, TrialState.TIMED_OUT})


def is_valued(trial: Trial) -> bool:
    """Return whether a trial that has ended has an objective to learn from."""
    return trial.value is not None and trial.state in _VALUED and not trial.nonfinite


def is_lesson(trial: Trial) -> bool:
    """Return whether a trial has no value, and its failure is a lesson about its configuration."""
    failed = trial.state is TrialState.INFEASIBLE or trial.reason in LESSON_OF_FAILURE
    return failed and not is_valued(trial)


@dataclass(frozen=True)
class Pending:
    """Trials that are proposed or running, sorted by index. Raises `InvalidInputError` for ended ones."""

    trials: tuple[Trial, ...]

    def __init__(self, trials: Sequence[Trial] = ()) -> None:
        """Sort `trials` by index; refuse one that has ended."""
        ended = [trial.index for trial in trials if trial.state.terminal]
        if ended:
            raise InvalidInputError(f"pending: trial {ended[0]} has ended")
        object.__setattr__(self, "trials", tuple(sorted(trials, key=lambda t: t.index)))


def split(trials: Sequence[Trial]) -> tuple[Completed, Pending]:
    """Return the completed and the pending trials of a job."""
    return (
        Completed([trial for trial in trials if trial.state.terminal]),
        Pending([trial for trial in trials if not trial.state.terminal]),
    )


def known_keys(space: Space, trials: Sequence[Trial]) -> set[str]:
    """Return the keys of all configurations that were ever proposed; none of them is proposed again."""
    return {space.key(trial.params) for trial in trials if not space.problems(trial.params)}


class Deadline:
    """How long a designer may still think; cancelled from another thread when nobody waits any more."""

    def __init__(self, seconds: float, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        """Start counting `seconds` now."""
        self._monotonic = monotonic
        self._end = monotonic() + seconds
        self._cancelled = threading.Event()

    def remaining_s(self) -> float:
        """Return seconds left, at least 0."""
        return 0.0 if self._cancelled.is_set() else max(0.0, self._end - self._monotonic())

    def cancel(self) -> None:
        """Let the next `check` raise."""
        self._cancelled.set()

    def check(self) -> None:
        """Raise `SuggestionUnavailableError` when the time is over."""
        if self.remaining_s() <= 0:
            raise SuggestionUnavailableError("suggestion: not ready within its deadline")


@dataclass(frozen=True, kw_only=True)
class Fallback:
    """A designer that could not answer, and who stood in for it."""

    source: str
    target: str
    reason: str
    """`cholesky`, `nan`, `timeout` or `error`: a bounded set, since it labels a metric."""
    message: str = ""


@dataclass(frozen=True, kw_only=True)
class Suggestion:
    """The next configuration, who proposed it, and the audit that the history keeps."""

    params: Params
    proposer: str
    """`default`, `sobol`, `random`, `grid`, `gp`, `meta-gp` (which learns from past tasks);
    `sobol/fallback` when it stood in for another."""
    detail: Mapping[str, Any] = field(default_factory=dict)
    """JSON: predicted mean and sd, model, counts. A function of the request, like `params`."""
    timings: Mapping[str, float] = field(default_factory=dict, compare=False)
    """Seconds by stage (`fit`, `acquire`); the only part that differs between equal requests."""
    fallbacks: tuple[Fallback, ...] = ()


class Designer(Protocol):
    """Proposes configurations; pure but for the deadline."""

    @property
    def name(self) -> str:
        """Name in metrics and audits."""

    def suggest(
        self, problem: Problem, completed: Completed, pending: Pending, deadline: Deadline
    ) -> Suggestion:
        """Return a legal configuration that no completed or pending trial has.

        The same arguments give the same configuration, whatever the order in which trials ended.
        Raises `SpaceExhaustedError` when there is none left.
        """


def designer_for(algorithm: Algorithm | str, *, threads: int = 1) -> Designer:
    """Return the designer of an algorithm, using so many torch threads if it uses torch.

    Raises `InvalidInputError` naming the algorithms there are.
    """
    try:
        make = REGISTRY[Algorithm(algorithm)]
    except ValueError:
        names = ", ".join(a.value for a in Algorithm)
        raise InvalidInputError(f"algorithm: must be one of {names}, not {algorithm!r}") from None
    return make(threads)


def _sobol(threads: int) -> Designer:  # noqa: ARG001 - one signature for all
    from foretune.search.simple import SobolDesigner  # noqa: PLC0415 - it imports this module

    return SobolDesigner()


def _random(threads: int) -> Designer:  # noqa: ARG001 - one signature for all
    from foretune.search.simple import RandomDesigner  # noqa: PLC0415 - it imports this module

    return RandomDesigner()


def _grid(threads: int) -> Designer:  # noqa: ARG001 - one signature for all
    from foretune.search.simple import GridDesigner  # noqa: PLC0415 - it imports this module

    return GridDesigner()


def _gp(threads: int) -> Designer:
    from foretune.search.ladder import Ladder  # noqa: PLC0415 - it imports this module
    from foretune.search.plain_gp import PlainGP  # noqa: PLC0415 - torch, only when it is used

    return Ladder((PlainGP(threads=threads), _sobol(threads)))


def _auto(threads: int) -> Designer:
    from foretune.search.ladder import WithHistory  # noqa: PLC0415 - it imports this module

    return WithHistory(_gp(threads), lambda: _meta(threads))


def _meta(threads: int) -> Designer:
    from foretune.search.ladder import Ladder  # noqa: PLC0415 - it imports this module
    from foretune.search.meta_gp import MetaGP  # noqa: PLC0415 - torch, only when it is used
    from foretune.search.plain_gp import PlainGP  # noqa: PLC0415 - torch, only when it is used

    plain = PlainGP(threads=threads, lessons=True)
    return Ladder((MetaGP(plain=plain, threads=threads), plain, _sobol(threads)))


REGISTRY: Final[Mapping[Algorithm, Callable[[int], Designer]]] = {
    Algorithm.AUTO: _auto,
    Algorithm.GP: _gp,
    Algorithm.RANDOM: _random,
    Algorithm.SOBOL: _sobol,
    Algorithm.GRID: _grid,
}
"""Algorithm to designer; torch is imported when a designer that needs it is made."""
