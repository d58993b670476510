"""Local mode: planner, designers, tracker and contract in one process; trials are processes beside it.

Everything that must survive is in the history and in the folders of attempts, so a run that ended by
whatever death goes on when the same manifest is run with the same history.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import json
import logging
import threading
import time
import uuid
from typing import TYPE_CHECKING, Any, Final

from foretune.adapters.local.dataset import check_dataset, to_read
from foretune.adapters.local.runner import GRACE_S, ProcessRunner, check
from foretune.app.clock import SystemClock
from foretune.app.loop import Reconciler, Turn
from foretune.app.place import open_history
from foretune.app.priors import PriorStore
from foretune.app.starter import ElsewherePrior
from foretune.app.tracker import start_local_tracker
from foretune.constants import LOCAL_NAMESPACE, Condition, Reason
from foretune.domain.exchange import is_imported
from foretune.domain.job import Algorithm
from foretune.errors import InvalidInputError, NotFoundError, UnavailableError
from foretune.planner.finish import best
from foretune.ports import SuggestionAnswer
from foretune.search.designer import Deadline, Problem, split
from foretune.search.habits import StartsWell, with_kin
from foretune.search.simple import SobolDesigner, initial_trials
from foretune.services.suggestion import SuggestionService, extendable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from foretune.adapters.store import SqlHistory
    from foretune.api.v1alpha1 import TuningJob
    from foretune.app.place import Place
    from foretune.app.tracker import LocalTracker
    from foretune.domain.history import JobRecord
    from foretune.domain.job import Job
    from foretune.domain.trial import Trial
    from foretune.ports import Clock, History, SuggestionRequest, Telemetry
    from foretune.services.suggestion import PriorSource

log = logging.getLogger(__name__)

IDENTITY: Final = ("objective", "space", "trial")
"""Parts of a spec that make a job what it is: with another one of these it is another job."""

HEARTBEAT_S: Final = 5.0
"""Seconds until the loop looks again though it heard nothing: the end of a process wakes it at once."""

RETRY_S: Final = 1.0
"""Seconds until a turn that failed is tried again."""

PATIENCE_S: Final = 60.0
"""Seconds of failing turns after which a run gives up: a disk that is full stays full."""

KILL_S: Final = 30.0
"""Seconds beyond the grace within which a killed process has ended, however busy the machine."""

MODELS: Final = frozenset({Algorithm.AUTO, Algorithm.GP})
"""Algorithms that need torch once the start is over."""


class LocalSuggestions:
    """Implements `ports.Suggestions` with the service in this process, torch imported in the background.

    The start of a job without past jobs needs no torch: it is answered at once, as the service would.
    """

    def __init__(self, service: SuggestionService, prior: PriorSource | None = None) -> None:
        """Take the service, and the prior that it has; `warm_up` makes it ready."""
        self._service = service
        self._prior = prior
        self._start = StartsWell(SobolDesigner())
        self._warming = False

    def warm_up(self) -> None:
        """Begin to import torch, once."""
        if not self._warming:
            self._warming = True
            threading.Thread(target=self._warm_up, name="foretune-warm-up", daemon=True).start()

    def suggest(self, request: SuggestionRequest) -> SuggestionAnswer:
        """Return the next configuration of a job; raises as `SuggestionService.suggest`."""
        problem = Problem(
            space=request.space,
            objective=request.objective,
            seed=request.seed,
            initial=request.initial,
            context=request.context,
        )
        if self._prior is not None and extendable(request):
            problem = self._prior.extend(problem)
        past = request.history or with_kin(problem.space, (), problem.starter)
        early = not past and len(request.trials) < initial_trials(problem)
        if request.algorithm not in MODELS or not early or self._service.ready:
            return self._service.suggest(request)
        completed, pending = split(request.trials)
        made = self._start.suggest(problem, completed, pending, Deadline(request.timeout_s))
        return SuggestionAnswer(params=made.params, proposer=made.proposer, detail=made.detail)

    def _warm_up(self) -> None:
        try:
            self._service.warm_up()
        except Exception as error:  # noqa: BLE001 - jobs go on with Sobol, and the user is told why
            log.warning("the model can't be computed, Sobol stands in: %s", error)


class LocalRun:
    """One run of one job on this machine, on a thread of its own; made by `open_run`."""

    def __init__(
        self,
        job: Job,
        *,
        known: JobRecord | None,
        notes: Sequence[str],
        history: SqlHistory,
        tracker: LocalTracker,
        suggestions: LocalSuggestions,
        state: Path,
        environ: Mapping[str, str],
        grace_s: float,
        clock: Clock,
        telemetry: Telemetry | None,
    ) -> None:
        """Put the parts together; nothing is started yet."""
        self.job = job
        self.known = known
        """The job's row before this run, or None for a new job."""
        self.notes = tuple(notes)
        """What the user should know before the first trial, a line each."""
        self.state = state / job.uid
        """Folder of the job's attempts and their logs."""
        self.finished = threading.Event()
        """Set when the run has ended, for whatever reason; `turn` and `error` tell which."""
        self.turn: Turn | None = None
        """The latest turn."""
        self.error: BaseException | None = None
        """What ended the run before the job ended."""
        self._history = history
        self._suggestions = suggestions
        self._grace_s = grace_s
        self._stopping = False
        self._wake = threading.Event()
        self._dropped: set[int] = set()
        self._failing_since: float | None = None
        self._runner = ProcessRunner(
            state,
            report_url=tracker.url,
            issue_token=tracker.issue_token,
            environ=environ,
            on_exit=self._wake.set,
            grace_s=grace_s,
        )
        self._reconciler = Reconciler(
            tracker=tracker.service,
            runner=self._runner,
            sink=self,
            clock=clock,
            telemetry=telemetry,
        )
        self._thread = threading.Thread(target=self._run, name="foretune-run", daemon=True)

    def start(self) -> None:
        """Begin; `finished` tells when it is over."""
        self._thread.start()

    def trials(self) -> Sequence[Trial]:
        """Return every trial of the job by index, with what running ones have reported so far."""
        try:
            return self._history.trials(self.job.uid)
        except NotFoundError:  # the first turn registers it
            return ()

    def interrupt(self) -> int:
        """Stop: running trials are asked to leave and have a grace; return how many there are."""
        self._stopping = True
        asked = self._runner.interrupt()
        self._wake.set()
        return asked

    def kill(self) -> None:
        """Stop at once: running trials are killed."""
        self._stopping = True
        self._runner.kill()
        self._wake.set()

    def close(self) -> None:
        """Leave no thread and no trial behind, whatever happened."""
        if self._thread.is_alive():
            self.kill()
            self._thread.join()

    def write(self, job: Job, status: Mapping[str, Any]) -> None:
        """Keep the status for the next turn: conditions keep their times (`ports.StatusSink`)."""
        del job
        self.job = dataclasses.replace(self.job, status=status)

    # ---------------------------------------------------------------- the thread
    def _run(self) -> None:
        try:
            self._runner.settle(self.job)
            while not self._stopping and not self._look():
                pass
            self._wind_down()
        except BaseException as error:  # noqa: BLE001 - raised again by the thread that waits for it
            self.error = error
        finally:
            if self.error is not None:
                self._runner.kill()
            self.finished.set()

    def _look(self) -> bool:
        """Run a turn and wait for news; return whether the job has ended."""
        self._wake.clear()
        try:
            turn = self._reconciler.reconcile(self.job)
        except UnavailableError as error:
            if not self._stopping:
                self._bear(error)
            return False
        self._failing_since = None
        self.turn = turn
        self._drop_checkpoints(turn)
        if _refused(turn):
            self.interrupt()
            return True
        if turn.done:
            return True
        if self.job.spec.search.algorithm in MODELS and len(turn.trials) < self.job.spec.trials:
            self._suggestions.warm_up()  # now that the first trials run
        self._wake.wait(min(turn.requeue_after_s or HEARTBEAT_S, HEARTBEAT_S))
        return False

    def _bear(self, error: UnavailableError) -> None:
        """Wait after a turn that failed; raises what failed it once that lasts too long."""
        now = time.monotonic()
        if self._failing_since is None:
            self._failing_since = now
            log.warning("%s; trying again for %g s", error, PATIENCE_S)
        if now - self._failing_since > PATIENCE_S:
            raise error
        self._wake.wait(RETRY_S)

    def _wind_down(self) -> None:
        """Wait for what still ends, and record how it ended, so that nothing looks as if it ran."""
        self._runner.wait(self._grace_s + KILL_S)
        if self._stopping:
            # A suspended job starts nothing, and is otherwise brought up to date.
            spec = dataclasses.replace(self.job.spec, suspend=True)
            try:
                self.turn = self._reconciler.reconcile(dataclasses.replace(self.job, spec=spec))
            except UnavailableError as error:
                log.warning("%s; the next run brings the history up to date", error)

    def _drop_checkpoints(self, turn: Turn) -> None:
        """Remove checkpoints of ended trials, but not those of the best: they are for going on."""
        winner = best(self.job.spec.objective, turn.trials)
        for trial in turn.trials:
            if trial.state.terminal and trial != winner and trial.index not in self._dropped:
                self._runner.drop_checkpoints(self.job, trial.index)
                self._dropped.add(trial.index)


def _refused(turn: Turn) -> bool:
    """Whether a trial can't be started here, now or later: a cluster would try again, a user waits."""
    for condition in turn.status["conditions"]:
        kind, reason = condition["type"], condition["reason"]
        if reason in {Reason.TEMPLATE_REJECTED, Reason.NAME_COLLISION}:
            return True
        if kind == Condition.ACCEPTED and condition["status"] == "False":
            return True
    return False


def check_data(manifest: TuningJob, environ: Mapping[str, str], say: Callable[[str], None]) -> None:
    """See that the built-in trainer can read its data set here, before anything starts.

    `say` hears of it when that may take a while. Raises `InvalidJobError`.
    """
    spec = manifest.to_domain(namespace=LOCAL_NAMESPACE, uid="-").spec
    check(spec, environ)
    name = to_read(spec)
    if name is not None:
        say(f"{manifest.name}: reading the data set {name}")
        check_dataset(spec, environ)


@contextlib.contextmanager
def open_run(
    manifest: TuningJob,
    place: Place,
    *,
    environ: Mapping[str, str],
    parallel: int | None = None,
    anew: bool = False,
    grace_s: float = GRACE_S,
    telemetry: Telemetry | None = None,
) -> Iterator[LocalRun]:
    """Yield a run of the job: the one that the history knows by this manifest, else a new one.

    Whatever runs is ended with the block. `grace_s` is what trials have to leave when they are stopped.
    Raises `InvalidInputError` for what can't run here or a history
    that can't be used, `ConflictError` while another process runs the job.
    """
    clock = SystemClock()
    spec = manifest.to_domain(namespace=LOCAL_NAMESPACE, uid="-").spec
    notes = check(spec, environ)
    if spec.suspend:
        notes.append("spec.suspend is true: that holds on a cluster; here the job runs")
    _check_packages(spec.search.algorithm)
    with contextlib.ExitStack() as stack:
        stack.enter_context(place.locked(manifest.name))
        history = open_history(place.history)
        stack.callback(history.close)
        known, said = _known(history, manifest, anew=anew)
        job = manifest.to_domain(
            namespace=LOCAL_NAMESPACE, uid=known.uid if known else str(uuid.uuid4())
        )
        job = dataclasses.replace(
            job,
            created_at=known.created_at if known else clock.now(),
            spec=dataclasses.replace(
                job.spec, parallelism=parallel or job.spec.parallelism, suspend=False
            ),
        )
        prior = _prior(place, history, job)
        service = SuggestionService(prior=prior)
        stack.callback(service.close)
        suggestions = LocalSuggestions(service, prior)
        tracker = stack.enter_context(start_local_tracker(history, suggestions, clock))
        run = LocalRun(
            job,
            known=known,
            notes=[*notes, *said],
            history=history,
            tracker=tracker,
            suggestions=suggestions,
            state=place.state,
            environ=environ,
            grace_s=grace_s,
            clock=clock,
            telemetry=telemetry,
        )
        stack.callback(run.close)
        yield run


def _prior(place: Place, history: History, job: Job) -> ElsewherePrior:
    """Return the starter, and the champion where it was made of jobs that this history does not have."""
    names = {f"{other.namespace}/{other.name}" for other in history.find_jobs()}
    champion = None
    try:
        champion = PriorStore.beside(place.history).champion()
    except InvalidInputError as error:
        log.warning("%s; going on without it", error)
    known = names | {f"{job.key.namespace}/{job.key.name}"}
    return ElsewherePrior([champion] if champion is not None else [], known=known)


def _known(
    history: SqlHistory, manifest: TuningJob, *, anew: bool
) -> tuple[JobRecord | None, Sequence[str]]:
    """Return the job of this manifest, the newest if it was begun anew, and what to say of others."""
    wanted = _parts(manifest.body["spec"])
    found = history.find_jobs(namespace=LOCAL_NAMESPACE, name=manifest.name)
    jobs = [job for job in found if not is_imported(job)]
    if anew:
        return None, []
    same = [job for job in jobs if _parts(job.manifest) == wanted]
    if same:
        return same[0], []
    if not jobs:
        return None, []
    before = _parts(jobs[0].manifest)
    changed = ", ".join(f"spec.{part}" for part in IDENTITY if before[part] != wanted[part])
    return None, [
        f"the history has a job {manifest.name!r} with another {changed}: this is a new job"
    ]


def _parts(spec: Mapping[str, Any]) -> dict[str, str]:
    return {part: json.dumps(spec.get(part), sort_keys=True, default=str) for part in IDENTITY}


def _check_packages(algorithm: Algorithm) -> None:
    missing = [name for name in ("torch", "botorch") if importlib.util.find_spec(name) is None]
    if algorithm in MODELS and missing:
        raise InvalidInputError(
            f"spec.search.algorithm: {algorithm} needs the package {missing[0]}: "
            "pip install 'foretune[local]', or choose random, sobol or grid"
        )


__all__ = ["LocalRun", "LocalSuggestions", "check_data", "open_run"]
