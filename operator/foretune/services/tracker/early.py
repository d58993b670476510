"""Whether a running trial is stopped, decided upon its report, and what a stopped trial would have come to.

Everything is read from the history: the curves of the job's trials that have run to their end, and those of
past jobs that had ended before this one began. So every tracker, and one that was restarted, decides alike.
"""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from foretune import contract
from foretune.api.spec import EarlyStopping as EarlyStoppingModel
from foretune.api.spec import Prior
from foretune.api.v1alpha1 import early_stopping_of, prior_of
from foretune.domain.job import EarlyStopping, StopMethod
from foretune.domain.trial import TrialState
from foretune.search.curves import Curve, CurveModel, learn
from foretune.search.stopping import MIN_REPORTS, Stopper

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from foretune.domain.history import JobRecord
    from foretune.domain.trial import Outcome, Point, Trial
    from foretune.ports import History
    from foretune.search.stopping import Decision
    from foretune.services.tracker.catalogue import Catalogue

log = logging.getLogger(__name__)

PAST_CURVES: Final = 48
"""Curves read of each past job: what all of them teach is learned in a second."""

OWN_CURVES: Final = 200
"""Curves read of the job itself, those of the latest trials."""

KEPT_JOBS: Final = 64
"""Running jobs whose curves are kept in memory, the last used."""

AGREES: Final = 0.1
"""How far a trial's last epoch may be from such a parameter, as a share of it, for it to be believed."""


@dataclass(frozen=True)
class _Known:
    """What was read of a job."""

    spec: EarlyStopping
    ended: int
    stopper: Stopper
    full: float | None
    """Epochs that whole trainings had; None when their parameter says it."""


class EarlyStops:
    """Decides for all jobs of one history. Thread-safe."""

    def __init__(self, history: History, catalogue: Catalogue) -> None:
        """Read from `history`; `catalogue` says which past jobs count."""
        self._history = history
        self._catalogue = catalogue
        self._lock = threading.Lock()
        self._known: OrderedDict[str, _Known] = OrderedDict()
        self._priors: OrderedDict[str, CurveModel | None] = OrderedDict()

    def decide(self, job: JobRecord, trial: Trial) -> Decision | None:
        """Return why a trial that has reported is stopped, or None."""
        spec = spec_of(job.manifest)
        if spec.method is StopMethod.NONE or trial.reports < MIN_REPORTS:
            return None
        known = self._of(job, spec)
        if known is None or known.stopper.method is StopMethod.NONE:
            return None
        curve = self._curve(job, trial, known.full)
        others: Sequence[Curve] = ()
        if known.stopper.method is StopMethod.ASHA:
            others = self._others(job, trial, known)
        return known.stopper.decide(curve, others)

    def final(self, job: JobRecord, outcome: Outcome) -> tuple[tuple[float, float] | None, float]:
        """Return what a stopped trial would have come to with its deviation, and the epochs it was spared.

        None where nothing can be said.
        """
        spec = spec_of(job.manifest)
        known = self._of(job, spec)
        trial = self._history.trial(job.uid, outcome.index)
        full = known.full if known is not None else spec.max
        curve = self._curve(job, trial, full, outcome.records)
        stopper = known.stopper if known is not None else Stopper(spec, job.objective, ())
        return stopper.final(curve), curve.spared

    # ---------------------------------------------------------------- what is read
    def _of(self, job: JobRecord, spec: EarlyStopping) -> _Known | None:
        """Return what is known of a job; None while too few of its trials have ended."""
        ended = self._history.ended([job.uid]).get(job.uid, 0)
        if ended < spec.grace_trials:
            return None
        with self._lock:
            known = self._known.get(job.uid)
        if known is not None and (known.ended, known.spec) == (ended, spec):
            return known
        whole = [
            trial
            for trial in self._history.trials(job.uid)
            if trial.state is TrialState.COMPLETED and trial.value is not None
        ][-OWN_CURVES:]
        read = self._history.curves(job.uid, [trial.index for trial in whole])
        full = spec.max if spec.max is not None else _full(whole, read)
        curves = [_whole(job, trial, read.get(trial.index, ())) for trial in whole]
        stopper = Stopper(spec, job.objective, curves, self._prior(job, spec))
        known = _Known(spec, ended, stopper, full)
        with self._lock:
            self._known[job.uid] = known
            self._known.move_to_end(job.uid)
            while len(self._known) > KEPT_JOBS:
                self._known.popitem(last=False)
        return known

    def _prior(self, job: JobRecord, spec: EarlyStopping) -> CurveModel | None:
        """Return what past jobs teach of curves."""
        if spec.method not in {StopMethod.AUTO, StopMethod.CURVE}:
            return None
        with self._lock:
            if job.uid in self._priors:
                return self._priors[job.uid]
        prior = prior_of(Prior.model_validate(job.manifest.get("prior") or {}))
        tasks = [self._past(uid) for uid in self._catalogue.with_curves(job, prior)]
        model = learn(job.objective, [t for t in tasks if t], grace=spec.grace_trials)
        if model is not None:
            log.info(
                "job %s: %d curves of %d past jobs tell when to stop (%.1f deviations)",
                *(job.uid, model.curves, model.tasks, model.z),
            )
        with self._lock:
            self._priors[job.uid] = model
            while len(self._priors) > KEPT_JOBS:
                self._priors.popitem(last=False)
        return model

    def _past(self, uid: str) -> list[Curve]:
        job = self._history.job(uid)
        trials = [
            trial
            for trial in self._history.lessons(uid, limit=PAST_CURVES)
            if trial.state is TrialState.COMPLETED and trial.reports >= MIN_REPORTS
        ]
        read = self._history.curves(uid, [trial.index for trial in trials])
        curves = [_whole(job, trial, read.get(trial.index, ())) for trial in trials]
        return [curve for curve in curves if len(curve.points) >= MIN_REPORTS]

    def _others(self, job: JobRecord, trial: Trial, known: _Known) -> list[Curve]:
        """Return the curves of trials that run or were stopped."""
        there = [
            other
            for other in self._history.trials(job.uid)
            if other.index != trial.index
            and other.reports
            and (not other.state.terminal or other.state is TrialState.EARLY_STOPPED)
        ][-OWN_CURVES:]
        read = self._history.curves(job.uid, [other.index for other in there])
        return [
            _curve(job, read.get(o.index, ()), full=_declared(o) or known.full or 0.0)
            for o in there
        ]

    def _curve(
        self,
        job: JobRecord,
        trial: Trial,
        full: float | None,
        records: Sequence[Mapping[str, Any]] = (),
    ) -> Curve:
        full = full if full is not None else _declared(trial)
        points = self._history.curve(job.uid, trial.index)
        return _curve(job, points, full or 0.0, records=records)


def spec_of(manifest: Mapping[str, Any]) -> EarlyStopping:
    """Return what a stored manifest says of trials that are stopped."""
    return early_stopping_of(EarlyStoppingModel.model_validate(manifest.get("earlyStopping") or {}))


def _curve(
    job: JobRecord,
    points: Sequence[Point],
    full: float,
    *,
    ended: bool = False,
    records: Sequence[Mapping[str, Any]] = (),
) -> Curve:
    metric = job.objective.metric
    found = {
        float(record["epoch"]): float(record["metrics"][metric])
        for record in records
        if record.get("epoch") is not None and metric in record.get("metrics", {})
    }
    found.update({p.epoch: p.metrics[metric] for p in points if metric in p.metrics})
    return Curve.of(job.objective, sorted(found.items()), full=full, ended=ended)


def _whole(job: JobRecord, trial: Trial, points: Sequence[Point]) -> Curve:
    last = max((point.epoch for point in points), default=0.0)
    return _curve(job, points, _declared(trial) or last, ended=True)


def _declared(trial: Trial) -> float | None:
    """Return the epochs that a trial's parameters say it has."""
    for name in contract.EPOCH_PARAMETERS:
        value = trial.params.get(name)
        if isinstance(value, int | float) and not isinstance(value, bool) and value > 0:
            return float(value)
    return None


def _full(whole: Sequence[Trial], read: Mapping[int, Sequence[Point]]) -> float | None:
    """Return the epochs of a whole training, or None where each trial's parameter says it truly."""
    lasts = {
        trial.index: max((p.epoch for p in read.get(trial.index, ())), default=0.0)
        for trial in whole
    }
    for trial in whole:
        declared = _declared(trial)
        if declared is not None and abs(lasts[trial.index] / declared - 1) <= AGREES:
            return None
    return max(lasts.values(), default=0.0)


__all__ = ["EarlyStops", "spec_of"]
