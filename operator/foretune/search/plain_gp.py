"""The plain expert: Bayesian optimisation of one job by itself, no history.

Start: default configuration, then scrambled Sobol. Model: BoTorch's `SingleTaskGP` on one-hot and
ordinal encodings, fitted in `fit`. Choice: log expected
improvement over a pool, polished, pending trials fantasised, with what trials cost and where they fail
(`economy`).
"""

from __future__ import annotations

import itertools
import threading
import time
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import torch

from foretune.domain.job import Goal
from foretune.search.acquisition import STARTS, Acquisition, polish, pool
from foretune.search.candidates import spread, untried
from foretune.search.designer import Suggestion, known_keys
from foretune.search.economy import Economy
from foretune.search.encode import Encoding
from foretune.search.feasibility import Feasibility
from foretune.search.fit import fit_single_task_gp
from foretune.search.kept import kept_failures, kept_values
from foretune.search.plateau import radius, wasted
from foretune.search.posterior import Posterior
from foretune.search.sampling import default_or, exhausted, first_untried, sobol_points
from foretune.search.simple import initial_trials
from foretune.search.targets import Targets

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from collections.abc import Set as AbstractSet

    from torch import Tensor

    from foretune.domain.space import Params
    from foretune.domain.trial import Trial
    from foretune.search.designer import Completed, Deadline, Pending, Problem
    from foretune.search.fit import Fit

MIN_VALUES: Final = 2
"""Objective values below which there is nothing to model."""

NEAR: Final = 5
"""Best configurations around which candidates are sprayed."""

FAILED_BELOW: Final = 0.5
"""A failed trial counts as this many standard deviations below the worst value. The feasibility model
alone lets improvement beyond the limit outweigh a small chance of success, and so runs into it again and
again: 16 failures in 20 trials, with this 1 or 2, at no loss of quality [measured, the job of
`tests/search/test_plain_gp.py` that runs out of memory]."""

FEASIBLE_CHOICE: Final = 64
"""Sobol points among which the most feasible is taken while there are failures and nothing else."""

_torch_lock = threading.Lock()


class PlainGP:
    """Gaussian process with log expected improvement, one job at a time."""

    name = "gp"

    def __init__(
        self,
        *,
        fit: Callable[..., Fit] = fit_single_task_gp,
        threads: int = 1,
        lessons: bool = False,
    ) -> None:
        """Use `fit` to fit the model (another one is injected to see what a failing fit does).

        With `lessons` the costs and failures of past tasks count; their values never do.
        """
        self._fit = fit
        self._lessons = lessons
        self._threads = threads

    def suggest(
        self, problem: Problem, completed: Completed, pending: Pending, deadline: Deadline
    ) -> Suggestion:
        """Return a start point while little is known, else the best point by the acquisition.

        Raises whatever goes wrong in the numerics: the ladder above answers one level lower.
        """
        with torch_threads(self._threads):
            trials = (*completed.trials, *pending.trials)
            if len(trials) < initial_trials(problem):
                return _start(problem, trials)
            if len(completed.valued) < MIN_VALUES:
                return _feasible_start(problem, completed, trials)
            return self._by_model(problem, completed, pending, deadline)

    def _by_model(
        self, problem: Problem, completed: Completed, pending: Pending, deadline: Deadline
    ) -> Suggestion:
        began = time.monotonic()
        space = problem.space
        encoding = Encoding(space)
        if encoding.width == 0:
            raise exhausted(space)
        valued = kept_values(problem, completed)
        failed = kept_failures(problem, completed)
        waiting = [t for t in pending.trials if not space.problems(t.params)]
        X = encoding.encode([t.params for t in valued])
        targets = Targets.of(
            [t.value for t in valued if t.value is not None],
            maximize=problem.objective.goal is Goal.MAXIMIZE,
        )
        rows, z = with_failures(encoding, X, targets, failed)
        extra = prediction_noise(valued, targets, len(rows))
        fit = self._fit(rows, z, deadline, *([] if extra is None else [extra]))
        fitted = time.monotonic()

        seed = stream_seed(problem.seed, len(completed.trials) + len(pending.trials))
        base = Posterior(
            fit.kernel, constant=fit.constant, noise=fit.noise, X=rows, z=z, extra=extra
        )
        posterior = base.with_pending(encoding.encode([t.params for t in waiting]), seed=seed)
        known = problem if self._lessons else replace(problem, history=())
        economy = Economy.of(known, encoding, completed)
        acquisition = Acquisition(posterior, economy)
        best = X[targets.z.argsort(descending=True, stable=True)][:NEAR]
        trials = (*completed.trials, *pending.trials)
        used = known_keys(space, trials)
        params: Params | None
        score: float | None
        if problem.candidates:
            params, score = _best_candidate(problem, encoding, acquisition, used, deadline)
        else:
            candidates = pool(encoding, best, seed=seed)
            reach = radius(X, torch.tensor([t.value for t in valued], dtype=torch.float64))
            tried = torch.cat([rows, encoding.encode([t.params for t in waiting])])
            scores = acquisition.scores(candidates, deadline) + wasted(candidates, tried, reach)
            starts = candidates[scores.argsort(descending=True, stable=True)[:STARTS]]
            polished = polish(encoding, acquisition, starts, deadline)
            if len(polished):
                candidates = torch.cat([polished, candidates])
                better = acquisition.scores(polished, deadline) + wasted(polished, tried, reach)
                scores = torch.cat([better, scores])
            params, score = _first_new(encoding, candidates, scores, used)
        if params is None:
            params = first_untried(
                space, sobol_points(space, problem.seed), used, seed=problem.seed
            )
        row = encoding.encode([params])
        mean, sd = base.at(row)
        detail: dict[str, Any] = {
            "model": "gp",
            "mean": targets.mean(float(mean)),
            "sd": targets.sd(float(sd)),
            "incumbent": targets.mean(float(base.incumbent())),
            "log_ei": score,
            "noise_sd": targets.sd(fit.noise**0.5),
            "observations": len(valued),
            "failures": len(failed),
            "pending": len(waiting),
            "lengthscales": by_parameter(encoding, fit.lengthscales),
            **economy.audit(row),
        }
        timings = {"fit": fitted - began, "acquire": time.monotonic() - fitted}
        return Suggestion(params=params, proposer=self.name, detail=detail, timings=timings)


def prediction_noise(valued: Sequence[Trial], targets: Targets, rows: int) -> Tensor | None:
    """Return what is added to the noise variance of `rows` rows, of which the first are `valued`.

    The value of a trial that was stopped is a prediction. None where every value was observed.
    """
    if not any(trial.value_sd for trial in valued):
        return None
    extra = torch.zeros(rows, dtype=torch.float64)
    deviations = [trial.value_sd / targets.scale for trial in valued]
    extra[: len(valued)] = torch.tensor(deviations, dtype=torch.float64).square()
    return extra


def with_failures(
    encoding: Encoding, X: Tensor, targets: Targets, failed: Sequence[Trial]
) -> tuple[Tensor, Tensor]:
    """Return rows and targets with failed trials added as bad values.

    As Google Vizier does: X. Song et al., "The Vizier Gaussian Process Bandit Algorithm", 2024.
    """
    if not failed:
        return X, targets.z
    low = float(targets.z.min()) - FAILED_BELOW
    bad = torch.full((len(failed),), low, dtype=torch.float64)
    rows = torch.cat([X, encoding.encode([t.params for t in failed])])
    z = torch.cat([targets.z, bad])
    return rows, z - z.mean()


def by_parameter(encoding: Encoding, lengthscales: Sequence[float]) -> dict[str, float]:
    """Return the shortest length scale of each parameter, rounded: short means it matters."""
    return {
        c.parameter.name: round(min(lengthscales[c.start : c.stop]), 4) for c in encoding.columns
    }


def stream_seed(seed: int, count: int) -> int:
    """Return the seed of the candidate pool: another one for each proposal of a job."""
    return (seed * 1_000_003 + count) % 2**63


def _start(problem: Problem, trials: Sequence[Trial]) -> Suggestion:
    used = known_keys(problem.space, trials)
    if problem.candidates:
        params = spread(problem.space, problem.candidates, used, seed=problem.seed)
        return Suggestion(params=params, proposer="sobol")
    stream = sobol_points(problem.space, problem.seed)
    params, is_default = default_or(problem.space, stream, used, seed=problem.seed)
    return Suggestion(params=params, proposer="default" if is_default else "sobol")


def _feasible_start(problem: Problem, completed: Completed, trials: Sequence[Trial]) -> Suggestion:
    """Return the Sobol point that most likely works, while there are failures and no values."""
    space = problem.space
    failed = kept_failures(problem, completed)
    if not failed or problem.candidates:
        return _start(problem, trials)
    used = known_keys(space, trials)
    stream = sobol_points(space, problem.seed)
    fresh = [
        params
        for params in itertools.islice(stream, len(used) + FEASIBLE_CHOICE)
        if space.key(params) not in used
    ]
    if not fresh:
        return _start(problem, trials)
    encoding = Encoding(space)
    worked = encoding.encode([t.params for t in completed.valued if not space.problems(t.params)])
    model = Feasibility(worked, encoding.encode([t.params for t in failed]))
    chance = model.log_probability(encoding.encode(fresh))
    return Suggestion(
        params=fresh[int(chance.argmax())],
        proposer="sobol",
        detail={"failures": len(failed), "feasible": float(chance.max().exp())},
    )


def _best_candidate(
    problem: Problem,
    encoding: Encoding,
    acquisition: Acquisition,
    used: AbstractSet[str],
    deadline: Deadline,
) -> tuple[Params, float]:
    left = [params for _, params in untried(problem.space, problem.candidates, used)]
    scores = acquisition.scores(encoding.encode(left), deadline)
    best = int(scores.argmax())
    return left[best], float(scores[best])


def _first_new(
    encoding: Encoding, candidates: Tensor, scores: Tensor, used: set[str]
) -> tuple[Params | None, float | None]:
    for index in scores.argsort(descending=True, stable=True).tolist():
        params = encoding.decode(candidates[index])
        if encoding.space.key(params) not in used:
            return params, float(scores[index])
    return None, None


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Run torch on `count` threads, one caller at a time, and leave the process's setting as it was.

    More than one is slower at this size, yet a notebook that trains models in this process wants all of
    its own back.
    """
    with _torch_lock:
        before = torch.get_num_threads()
        torch.set_num_threads(count)
        try:
            yield
        finally:
            torch.set_num_threads(before)
