"""Suggestions in this process: one worker computes, callers wait no longer than they asked to."""

from __future__ import annotations

import functools
import logging
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Protocol

from foretune.domain.job import Algorithm, Objective, PriorMode
from foretune.domain.space import Float, Space
from foretune.domain.trial import Trial, TrialState
from foretune.errors import (
    InvalidInputError,
    SpaceExhaustedError,
    SuggestionUnavailableError,
)
from foretune.ports import SuggestionAnswer, SuggestionRequest
from foretune.search.designer import Deadline, Problem, designer_for, split
from foretune.search.fallback import sobol_proposal

if TYPE_CHECKING:
    from collections.abc import Callable

    from foretune.search.designer import Designer, Suggestion

_log = logging.getLogger(__name__)


class Meter(Protocol):
    """Hears what the service does; an implementation must not raise."""

    def answered(self, algorithm: str, seconds: float) -> None:
        """A request was answered after `seconds`, fallbacks included."""

    def failed(self, algorithm: str, reason: str) -> None:
        """The designer of a request gave no answer."""

    def fitted(self, model: str, seconds: float) -> None:
        """A surrogate was fitted."""

    def fell_back(self, source: str, target: str, reason: str) -> None:
        """A designer could not answer and another stood in."""


class PriorSource(Protocol):
    """What was learned from elsewhere than a job's own past jobs, as from a prior that ships."""

    def extend(self, problem: Problem) -> Problem:
        """Return the problem with what is known of it added.

        Called for jobs that leave it to us what they learn from (`prior.mode: auto`), on the designers'
        thread. While nothing changed the same `problem.history` gives the same `history` object.
        """


def extendable(request: SuggestionRequest) -> bool:
    """Return whether a job leaves it to us what it learns from."""
    return request.algorithm == Algorithm.AUTO and request.prior is PriorMode.AUTO


class NoMeter:
    """A meter that nobody reads."""

    def answered(self, algorithm: str, seconds: float) -> None:
        """Do nothing."""

    def failed(self, algorithm: str, reason: str) -> None:
        """Do nothing."""

    def fitted(self, model: str, seconds: float) -> None:
        """Do nothing."""

    def fell_back(self, source: str, target: str, reason: str) -> None:
        """Do nothing."""


class SuggestionService:
    """Implements `ports.Suggestions`; may be called from many threads.

    All designers run on one worker thread: torch gains nothing from several at this size, and memory
    stays that of one computation. A request that is not answered within its `timeout_s`, waiting
    included, is answered by scrambled Sobol, and its computation is abandoned at its next step.
    """

    def __init__(
        self,
        *,
        meter: Meter | None = None,
        designers: Callable[[str], Designer] | None = None,
        prior: PriorSource | None = None,
        threads: int = 1,
    ) -> None:
        """Take designers from the registry unless told otherwise; torch is not imported yet."""
        self._prior = prior
        self._meter = meter or NoMeter()
        self._designers = functools.cache(
            designers or functools.partial(designer_for, threads=threads)
        )
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="foretune-designer")
        self._lock = threading.Lock()
        self._running: set[Deadline] = set()
        self._closed = False
        self._warm = threading.Event()

    @property
    def ready(self) -> bool:
        """Whether the first answer will not wait for imports."""
        return self._warm.is_set() and not self._closed

    def warm_up(self) -> None:
        """Import torch and compute one tiny suggestion, so that the first request finds both done.

        Raises whatever hinders that, `ImportError` for one: better at start than at the first job.
        """
        space = Space((Float(name="x", low=0.0, high=1.0),))
        trials = [
            Trial(
                job_uid="warm-up",
                index=index,
                params={"x": index / 4},
                state=TrialState.COMPLETED,
                config_hash="",
                value=float(index),
            )
            for index in range(4)
        ]
        request = SuggestionRequest(
            job_uid="warm-up",
            index=4,
            space=space,
            objective=Objective(metric="y"),
            algorithm=Algorithm.GP,
            seed=0,
            trials=trials,
        )
        self._worker.submit(self._design, request, Deadline(float("inf"))).result()
        self._warm.set()

    def suggest(self, request: SuggestionRequest) -> SuggestionAnswer:
        """Return the next configuration of a job.

        Raises `SpaceExhaustedError`, `InvalidInputError` for a request that no designer can answer (grid
        over an infinite space), `SuggestionUnavailableError` once the service is closed.
        """
        began = time.monotonic()
        deadline = Deadline(request.timeout_s)
        future = self._submit(request, deadline)
        try:
            suggestion = future.result(timeout=request.timeout_s)
        except (SpaceExhaustedError, InvalidInputError) as error:
            reason = "exhausted" if isinstance(error, SpaceExhaustedError) else "invalid"
            self._meter.failed(request.algorithm, reason)
            raise
        except (TimeoutError, SuggestionUnavailableError):
            future.cancel()
            answer = self._stand_in(request, "timeout")
        except Exception:  # noqa: BLE001 - a job never stalls for want of a designer
            _log.exception("designer of algorithm %s failed", request.algorithm)
            answer = self._stand_in(request, "error")
        else:
            answer = self._answer(suggestion, time.monotonic() - began)
        finally:
            deadline.cancel()
            with self._lock:
                self._running.discard(deadline)
        self._meter.answered(request.algorithm, time.monotonic() - began)
        return answer

    def close(self) -> None:
        """Answer nothing any more; a computation under way ends at its next step."""
        with self._lock:
            self._closed = True
            for deadline in self._running:
                deadline.cancel()
        self._worker.shutdown(wait=False, cancel_futures=True)

    def _submit(self, request: SuggestionRequest, deadline: Deadline) -> Future[Suggestion]:
        with self._lock:
            if self._closed:
                raise SuggestionUnavailableError("suggestion: the service is shutting down")
            self._running.add(deadline)
            return self._worker.submit(self._design, request, deadline)

    def _design(self, request: SuggestionRequest, deadline: Deadline) -> Suggestion:
        deadline.check()
        completed, pending = split(request.trials)
        problem = Problem(
            space=request.space,
            objective=request.objective,
            seed=request.seed,
            initial=request.initial,
            context=request.context,
            history=request.history,
            budget=request.budget,
        )
        if extendable(request):
            problem = self._extended(problem)
        return self._designers(request.algorithm).suggest(problem, completed, pending, deadline)

    def _extended(self, problem: Problem) -> Problem:
        if self._prior is None:
            return problem
        try:
            return self._prior.extend(problem)
        except Exception:  # noqa: BLE001 - nobody's prior stalls a job
            _log.exception("the prior can't be used; going on without it")
            return problem

    def _answer(self, suggestion: Suggestion, seconds: float) -> SuggestionAnswer:
        for fallback in suggestion.fallbacks:
            self._meter.fell_back(fallback.source, fallback.target, fallback.reason)
        if "fit" in suggestion.timings:
            model = str(suggestion.detail.get("model", suggestion.proposer))
            self._meter.fitted(model, suggestion.timings["fit"])
        timings = {f"{name}_s": round(value, 4) for name, value in suggestion.timings.items()}
        return SuggestionAnswer(
            params=suggestion.params,
            proposer=suggestion.proposer,
            detail={**suggestion.detail, **timings, "latency_s": round(seconds, 4)},
        )

    def _stand_in(self, request: SuggestionRequest, reason: str) -> SuggestionAnswer:
        self._meter.failed(request.algorithm, reason)
        self._meter.fell_back(request.algorithm, "sobol", reason)
        return sobol_proposal(request.space, request.trials, request.seed, reason=reason)
