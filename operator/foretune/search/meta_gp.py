"""The designer that learns from past tasks, and the guard that keeps it honest.

Two experts take turns. The one with a prior conditions what past tasks say on what this job has seen
(`conditioning`); the plain one is `PlainGP`, as without any history. The plain expert makes at least
every second proposal after the first ones, more the less the values of this job look as past tasks
predicted, and all once they clearly don't. The evidence is the marginal likelihood of all values so
far, which is the product of the predictions made for each of them before it was known.
"""

from __future__ import annotations

import itertools
import math
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import Tensor

from foretune.domain.job import Goal
from foretune.domain.space import Params, Space
from foretune.search import sobol
from foretune.search.acquisition import spray
from foretune.search.basis import Basis
from foretune.search.candidates import untried
from foretune.search.conditioning import ALL, Mixed, Parts, Rows, log_improvement
from foretune.search.designer import SourceTask, Suggestion, known_keys
from foretune.search.economy import Economy
from foretune.search.encode import Encoding
from foretune.search.kept import kept_failures, kept_values
from foretune.search.plain_gp import NEAR, PlainGP, stream_seed, torch_threads, with_failures
from foretune.search.plateau import radius, wasted
from foretune.search.sampling import exhausted, first_untried, sobol_points
from foretune.search.targets import Targets
from foretune.search.tasks import Library, read

if TYPE_CHECKING:
    from collections.abc import Sequence

    from foretune.domain.trial import Trial
    from foretune.search.designer import Completed, Deadline, Designer, Pending, Problem

FLOOR: Final = 1 / 2
"""Least share of the plain expert's proposals."""

GRACE: Final = 4
"""Proposals of the prior before the plain expert has its first turn."""

FAVOUR: Final = 1.0
"""Log odds for the prior before any value: a history is there because it is thought to help."""

TAILS: Final = {"meta": 1.5, "plain": 2.5}
"""Factor by which told deviations are wider than the model's, by expert: outcomes have heavier tails than
a normal distribution, most of all away from what is known to be good. With these .90 of the outcomes from the
fourth on lay within 90 % intervals; without, .82 and .53 (decision 0010)."""

TRIP: Final = 3.0
"""Log odds of the plain process against the prior from which the prior is not used."""

TRIP_AFTER: Final = 5
"""Values needed before the prior can be rejected."""

POOL: Final = 1024
"""Candidates spread over the space."""

FINE: Final = 128
"""Candidates sprayed around the best of the first round."""

SPREAD: Final = 3
"""Proposals of the plain expert that are spread over the space while the evidence is against the prior: past
bests alone can't tell it what else there is. Its first one always is, for comparison."""

CACHED: Final = 4
"""Histories kept ready."""

FOLLOWED: Final = 0.05
"""Least share of the past scores' variance that their neighbours must predict. Recorded histories of 200
rows a task have .13 to .98, the same with shuffled values at most .02 [measured, 11 families]."""

TOLD_AFTER: Final = 200
"""Past rows in all from which that share is told from chance."""

EARLY: Final = 8
"""Trials until which only past bests are tried, since they were seen to be good somewhere."""

UNLIKELY: Final = 1e6
"""Log score that a candidate loses while only those nearest to past bests are tried."""

REJECTED_SHOWN: Final = 10
"""Rejected tasks named in the audit."""


class MetaGP:
    """Bayesian optimisation with past tasks as prior, alternating with the plain expert."""

    name = "meta-gp"

    def __init__(
        self,
        *,
        plain: Designer | None = None,
        threads: int = 1,
        guard: bool = True,
        parts: Parts = ALL,
    ) -> None:
        """Alternate with `plain`, by default the plain Gaussian process.

        Without `guard`, and with less than all `parts`, it is an ablation.
        """
        self._plain = plain or PlainGP(threads=threads, lessons=True)
        self._threads = threads
        self._guard = guard
        self._parts = parts

    def suggest(
        self, problem: Problem, completed: Completed, pending: Pending, deadline: Deadline
    ) -> Suggestion:
        """Return the default configuration, then the choice of the expert whose turn it is.

        Raises whatever goes wrong in the numerics: the ladder above answers one level lower.
        """
        with torch_threads(self._threads):
            prepared = _prepared(problem)
            if prepared.basis is None:
                turn, suggestion = None, None
                audit = _audit(prepared, prior="none")
            else:
                turn = _Round(
                    problem,
                    prepared=prepared,
                    basis=prepared.basis,
                    completed=completed,
                    pending=pending,
                    deadline=deadline,
                    guard=self._guard,
                    parts=self._parts,
                )
                audit, suggestion = turn.outcome()
        if suggestion is not None:
            return suggestion
        # With a prior there is no start to make: the plain model takes its turn from the first values.
        alone = problem.initial if turn is None else turn.spread_until
        given = replace(problem, initial=alone)
        plain = self._plain.suggest(given, completed, pending, deadline)
        detail = {**plain.detail, **audit, "expert": "plain"}
        if turn is not None and audit["prior"] == "used":
            with torch_threads(self._threads):
                detail |= turn.expected(plain.params, tails=TAILS["plain"])
        return replace(plain, detail=detail)


@dataclass(frozen=True)
class _Prepared:
    """A history in the form of one space."""

    history: tuple[SourceTask, ...]
    space: Space
    candidates: tuple[Params, ...]
    encoding: Encoding
    past: Library
    basis: Basis | None
    bests: Rows
    """The past tasks' best configurations, each once, the best of all tasks first."""
    given: Rows | None
    """The problem's candidates, where only these may be proposed."""
    likely: Tensor | None
    """Which of them are nearest to a past task's best."""
    keys: tuple[str, ...]
    """Their keys."""


_ready: list[_Prepared] = []


def _prepared(problem: Problem) -> _Prepared:
    """Return the history in the form of this space; the same objects are read once."""
    for known in _ready:
        same = known.history is problem.history and known.candidates is problem.candidates
        if same and known.space == problem.space:
            return known
    space = problem.space
    encoding = Encoding(space)
    if encoding.width == 0:
        raise exhausted(space)
    library, basis = _sound(read(problem, encoding))
    seen: dict[str, Params] = {}
    for layer in itertools.zip_longest(*(task.bests for task in library.tasks)):
        for params in layer:
            if params is not None:
                seen.setdefault(space.key(params), params)
    nothing = Rows(torch.empty(0, encoding.width), torch.empty(0, 0))
    bests, given, likely = nothing, None, None
    if basis is not None:
        bests = basis.at(encoding.encode(list(seen.values())))
    if problem.candidates and basis is not None:
        given = basis.at(encoding.encode(problem.candidates))
        likely = torch.zeros(len(given.X), dtype=torch.bool)
        likely[nearest(bests.X / basis.lengthscales, given.X / basis.lengthscales)] = True
    prepared = _Prepared(
        history=problem.history,
        space=space,
        candidates=problem.candidates,
        encoding=encoding,
        past=library,
        basis=basis,
        bests=bests,
        given=given,
        likely=likely,
        keys=tuple(space.key(params) for params in problem.candidates),
    )
    _ready.append(prepared)
    del _ready[:-CACHED]
    return prepared


def basis_of(problem: Problem) -> Basis | None:
    """Return what past tasks say in this problem's space; None when none of them fits."""
    return _prepared(problem).basis


def _sound(library: Library) -> tuple[Library, Basis | None]:
    """Return the tasks and their functions, or none of them when values don't follow the parameters.

    Shuffled or otherwise meaningless values teach nothing, yet would lead the first trials astray.
    """
    if not library.tasks:
        return library, None
    basis = Basis(library.tasks)
    if basis.followed >= FOLLOWED or sum(len(task.z) for task in library.tasks) < TOLD_AFTER:
        return library, basis
    reason = "no task's values follow its parameters"
    rejected = {**library.rejected, **{task.name: reason for task in library.tasks}}
    return Library((), rejected), None


def nearest(points: Tensor, candidates: Tensor) -> Tensor:
    """Return the index of the candidate (`m x D`) nearest to each of the points (`p x D`)."""
    parts = [torch.cdist(chunk, candidates).argmin(dim=1) for chunk in torch.split(points, NEAR)]
    return torch.cat(parts)


class _Round:
    """One suggestion: what is known, who has the turn, and the prior's choice."""

    def __init__(
        self,
        problem: Problem,
        *,
        prepared: _Prepared,
        basis: Basis,
        completed: Completed,
        pending: Pending,
        deadline: Deadline,
        guard: bool,
        parts: Parts,
    ) -> None:
        self._problem = problem
        self._completed = completed
        self._guard = guard
        self._parts = parts
        self._prepared = prepared
        self._basis = basis
        self._deadline = deadline
        self._encoding = prepared.encoding
        space = problem.space
        self._trials = (*completed.trials, *pending.trials)
        self._used = known_keys(space, self._trials)
        self._valued = kept_values(problem, completed)
        self._failed = kept_failures(problem, completed)
        self._waiting = [t for t in pending.trials if not space.problems(t.params)]
        self._seed = stream_seed(problem.seed, len(self._trials))
        self._model: tuple[Mixed, Targets] | None = None
        self._doubt = torch.empty(0)
        """Variances of the values that are predictions themselves, in standardised units."""
        self._doubtful = False
        self.spread_until = 0
        """Number of trials below which the plain expert's proposal is a start point."""
        count = len(basis.names)
        self._weights = torch.full((count,), 1 / count, dtype=torch.float64)

    def outcome(self) -> tuple[dict[str, Any], Suggestion | None]:
        """Return the audit, and the suggestion unless it is the plain expert's turn."""
        audit = _audit(self._prepared, prior="used")
        default = self._problem.space.default()
        if default is not None and not self._prepared.candidates and self._new(default):
            return audit, Suggestion(params=default, proposer="default", detail=audit)
        if not self._valued:
            return audit, self._start(audit)
        return self._by_evidence(audit)

    def _start(self, audit: dict[str, Any]) -> Suggestion:
        """Return what adds most to the best that each past task expects of the trials so far."""
        taken = self._rows((*self._failed, *self._waiting))
        pool = self._prepared.bests if self._prepared.given is None else self._prepared.given
        values = pool.values
        if len(taken.X):
            values = torch.maximum(values, taken.values.amax(dim=0))
        params = self._first_new(pool.X, self._likely(values @ self._weights))
        return Suggestion(params=params, proposer=MetaGP.name, detail=audit)

    def _by_evidence(self, audit: dict[str, Any]) -> tuple[dict[str, Any], Suggestion | None]:
        began = time.monotonic()
        rows = self._rows(self._valued)
        targets = Targets.of(
            [t.value for t in self._valued if t.value is not None],
            maximize=self._problem.objective.goal is Goal.MAXIMIZE,
        )
        _, z = with_failures(self._encoding, rows.X, targets, self._failed)
        z = z + (
            targets.z[0] - z[0]
        )  # back to where `targets` are: predictions are told in their unit
        seen = rows + self._rows(self._failed)
        sds = [t.value_sd for t in self._valued] + [0.0] * len(self._failed)
        doubt = torch.tensor(sds, dtype=torch.float64).div(targets.scale).square()
        model = self._mixed(seen, z, doubt)
        self._model, self._doubt = (model, targets), doubt
        plain = Mixed(seen, z, kernel=self._basis.kernel, past=False, noise=doubt)
        odds = plain.log_evidence - model.log_evidence
        share = max(FLOOR, 1 / (1 + math.exp(max(-50.0, min(50.0, FAVOUR - odds)))))
        if _plain_turns(self._trials) < (SPREAD if odds > 0 else 1):
            self.spread_until = len(self._trials) + 1
        audit |= {
            "log_odds_plain": round(odds, 4),
            "weights": {"meta": round(1 - share, 4), "plain": round(share, 4)},
            "sources": self._sources(model),
        }
        if self._guard and len(self._valued) >= TRIP_AFTER and odds > TRIP:
            return audit | {
                "prior": "rejected",
                "reason": "the values so far are not what past tasks predicted",
            }, None
        if self._guard and _plain_turn(self._trials, share):
            return audit, None
        self._doubtful = odds > 0
        economy = Economy.of(self._problem, self._encoding, self._completed)
        fitted = time.monotonic()
        params = self._choice(model, seen, z, rows, targets, economy=economy)
        row = self._encoding.encode([params])
        detail = audit | self.expected(params, tails=TAILS["meta"])
        detail |= {
            "incumbent": targets.mean(float(model.summary(rows)[0].max())),
            "observations": len(self._valued),
            "failures": len(self._failed),
            "pending": len(self._waiting),
            **economy.audit(row),
        }
        timings = {"fit": fitted - began, "acquire": time.monotonic() - fitted}
        return audit, Suggestion(
            params=params, proposer=MetaGP.name, detail=detail, timings=timings
        )

    def expected(self, params: Params, *, tails: float) -> dict[str, float]:
        """Return what the model with past tasks expects of a configuration, whoever proposes it.

        They know how much such objectives vary; from a few good values alone the plain model can't.
        """
        assert self._model is not None
        model, targets = self._model
        mean, sd = model.summary(self._basis.at(self._encoding.encode([params])))
        return {
            "mean": targets.mean(float(mean)),
            "sd": targets.sd(tails * float(sd)),
            "noise_sd": targets.sd(tails * model.noise_sd),
        }

    def _choice(
        self,
        model: Mixed,
        seen: Rows,
        z: Tensor,
        rows: Rows,
        targets: Targets,
        *,
        economy: Economy,
    ) -> Params:
        """Return the new configuration with the largest expected improvement."""
        if self._waiting:  # they count as if they came out as expected
            waiting = self._rows(self._waiting)
            z = torch.cat([z, model.summary(waiting)[0]])
            doubt = torch.cat([self._doubt, self._doubt.new_zeros(len(self._waiting))])
            model = self._mixed(seen + waiting, z, doubt)
        incumbent = model.at(rows)[0].amax(dim=0)

        values = torch.tensor([t.value for t in self._valued], dtype=torch.float64)
        reach = 0.0 if self._prepared.given is not None else radius(rows.X, values)
        tried = torch.cat([seen.X, self._rows(self._waiting).X])

        def score(candidates: Rows) -> Tensor:
            self._deadline.check()
            total = log_improvement(model, candidates, incumbent) + economy.adjust(candidates.X)
            return total + wasted(candidates.X, tried, reach)

        pool = self._pool(rows.X[targets.z.argsort(descending=True, stable=True)][:NEAR])
        scores = score(pool)
        if self._early:
            scores = self._likely(scores)
        elif self._prepared.given is None:
            top = pool.X[scores.argsort(descending=True, stable=True)[:NEAR]]
            fine = self._basis.at(spray(self._encoding, top, seed=self._seed + 1, count=FINE))
            pool, scores = pool + fine, torch.cat([scores, score(fine)])
        return self._first_new(pool.X, scores)

    def _pool(self, best: Tensor) -> Rows:
        """Return candidates: past bests first, then the whole space if small, else Sobol and a spray."""
        if self._prepared.given is not None:
            return self._prepared.given
        bests, encoding = self._prepared.bests, self._encoding
        if self._early:
            return bests
        count = self._problem.space.cardinality
        if count is not None and count <= POOL:
            return self._basis.at(encoding.grid())
        points = itertools.islice(sobol.points(len(encoding.columns), seed=self._seed), POOL)
        spread = encoding.draw(torch.tensor(list(points), dtype=torch.float64))
        near = spray(encoding, torch.cat([best, bests.X[:NEAR]]), seed=self._seed)
        return bests + self._basis.at(torch.cat([spread, near]))

    @property
    def _early(self) -> bool:
        """Whether only past bests are tried."""
        return len(self._trials) < EARLY and not self._doubtful

    def _likely(self, scores: Tensor) -> Tensor:
        """Return the scores, of given candidates only those nearest to past bests with their own."""
        likely = self._prepared.likely
        return scores if likely is None else torch.where(likely, scores, scores - UNLIKELY)

    def _rows(self, trials: Sequence[Trial]) -> Rows:
        return self._basis.at(self._encoding.encode([t.params for t in trials]))

    def _mixed(self, rows: Rows, z: Tensor, noise: Tensor) -> Mixed:
        return Mixed(rows, z, kernel=self._basis.kernel, parts=self._parts, noise=noise)

    def _sources(self, model: Mixed) -> dict[str, float]:
        """Return the three past tasks that the prediction leans on most, with their shares."""
        shares = model.shares()
        top = shares.argsort(descending=True, stable=True)[:3].tolist()
        return {self._basis.names[i]: round(float(shares[i]), 4) for i in top}

    def _new(self, params: Params) -> bool:
        return self._problem.space.key(params) not in self._used

    def _first_new(self, X: Tensor, scores: Tensor) -> Params:
        order: list[int] = scores.argsort(descending=True, stable=True).tolist()
        if self._prepared.given is not None:
            for index in order:
                if self._prepared.keys[index] not in self._used:
                    return self._prepared.candidates[index]
            return untried(self._problem.space, self._prepared.candidates, self._used)[0][1]
        for index in order:
            params = self._encoding.decode(X[index])
            if self._new(params):
                return params
        space, seed = self._problem.space, self._problem.seed
        return first_untried(space, sobol_points(space, seed), self._used, seed=seed)


def _audit(prepared: _Prepared, *, prior: str) -> dict[str, Any]:
    past = prepared.past
    audit: dict[str, Any] = {"expert": "meta", "prior": prior, "tasks": len(past.tasks)}
    if not past.tasks:
        audit["reason"] = "no past task fits"
    if past.set_aside:
        audit["set_aside"] = dict(past.set_aside)
    if past.rejected:
        audit["rejected"] = dict(sorted(past.rejected.items())[:REJECTED_SHOWN])
    return audit


def _plain_turn(trials: Sequence[Trial], share: float) -> bool:
    """Return whether the plain expert has had less than its share of the two experts' proposals."""
    plain = _plain_turns(trials)
    meta = sum(trial.proposer.split("/")[0] == MetaGP.name for trial in trials)
    return plain < math.floor(share * (plain + meta + 1 - GRACE))


def _plain_turns(trials: Sequence[Trial]) -> int:
    """Return how many proposals the plain expert has made, start points included."""
    return sum(trial.proposer.split("/")[0] in {PlainGP.name, "sobol"} for trial in trials)
