"""Designers without a model: scrambled Sobol, independent random draws, the grid. No torch.

Also how long a model waits before it proposes: until then its job starts as `SobolDesigner` does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from foretune.errors import InvalidInputError
from foretune.search.candidates import drawn, spread, untried
from foretune.search.designer import Suggestion, known_keys
from foretune.search.sampling import at, default_or, random_points, sobol_points, tunable

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from collections.abc import Set as AbstractSet

    from foretune.domain.space import Params, Space
    from foretune.domain.trial import Trial
    from foretune.search.designer import Completed, Deadline, Pending, Problem

MIN_INITIAL: Final = 3
"""Fewest trials before the model proposes, unless the job says otherwise."""

MAX_INITIAL: Final = 6
"""Most trials before the model proposes, unless the job says otherwise."""


def initial_trials(problem: Problem) -> int:
    """Return how many trials come before the model: the job's wish, else 3 to 6 by dimension."""
    if problem.initial is not None:
        return problem.initial
    return max(MIN_INITIAL, min(len(tunable(problem.space)), MAX_INITIAL))


class SobolDesigner:
    """The default configuration first, then scrambled Sobol points that nobody tried yet."""

    name = "sobol"

    def suggest(
        self,
        problem: Problem,
        completed: Completed,
        pending: Pending,
        deadline: Deadline,  # noqa: ARG002 - it takes no time worth measuring
    ) -> Suggestion:
        """Return the first Sobol point that no trial has."""
        trials = (*completed.trials, *pending.trials)
        stream = sobol_points(problem.space, problem.seed)
        return _walk(problem, trials, stream, self.name)


class RandomDesigner:
    """The default configuration first, then independent draws, uniform on each parameter's scale."""

    name = "random"

    def suggest(
        self,
        problem: Problem,
        completed: Completed,
        pending: Pending,
        deadline: Deadline,  # noqa: ARG002 - it takes no time worth measuring
    ) -> Suggestion:
        """Return the first draw of the seed's stream that no trial has."""
        trials = (*completed.trials, *pending.trials)
        stream = random_points(problem.space, problem.seed)
        return _walk(problem, trials, stream, self.name)


class GridDesigner:
    """The default configuration first, then every configuration of a finite space in order."""

    name = "grid"

    def suggest(
        self,
        problem: Problem,
        completed: Completed,
        pending: Pending,
        deadline: Deadline,  # noqa: ARG002 - it takes no time worth measuring
    ) -> Suggestion:
        """Return the first configuration of the grid that no trial has.

        Raises `InvalidInputError` naming a parameter with infinitely many values.
        """
        space = problem.space
        endless = [p.name for p in space.parameters if p.cardinality is None]
        if endless:
            raise InvalidInputError(
                f"space.{endless[0]}: search.algorithm grid needs a finite space; "
                "give the parameter a step or a list of values"
            )
        trials = (*completed.trials, *pending.trials)
        return _walk(problem, trials, _grid(space, len(trials)), self.name)


def _grid(space: Space, known: int) -> Iterator[Params]:
    count = space.cardinality
    assert count is not None
    # One more than the known configurations holds an untried one, if there is one.
    return (at(space, index) for index in range(min(count, known + 1)))


def _walk(
    problem: Problem,
    trials: Sequence[Trial],
    stream: Iterable[Params],
    proposer: str,
) -> Suggestion:
    used = known_keys(problem.space, trials)
    if problem.candidates:
        return Suggestion(params=_candidate(problem, used, proposer), proposer=proposer)
    params, is_default = default_or(problem.space, stream, used, seed=problem.seed)
    return Suggestion(params=params, proposer="default" if is_default else proposer)


def _candidate(problem: Problem, used: AbstractSet[str], proposer: str) -> Params:
    """Return the next of the given candidates: in their order for the grid, else spread or drawn."""
    space, candidates, seed = problem.space, problem.candidates, problem.seed
    if proposer == GridDesigner.name:
        return untried(space, candidates, used)[0][1]
    choose = drawn if proposer == RandomDesigner.name else spread
    return choose(space, candidates, used, seed=seed)
