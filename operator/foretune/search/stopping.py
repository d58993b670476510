"""Which running trial is stopped: four rules over the curves of a job, and the prior of `curves`.

Whatever the rule, a trial is never stopped while fewer than `grace` trials have run to their end, before a
tenth of its training or its second report, at its last report, or while it is the best so far. The same
curves give the same decision, so that a restarted server decides alike.
"""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from foretune.domain.job import StopMethod
from foretune.search.curves import EARLIEST, CurveModel, chance, own_model

if TYPE_CHECKING:
    from collections.abc import Sequence

    from foretune.domain.job import EarlyStopping, Objective
    from foretune.search.curves import Curve

MIN_REPORTS: Final = 2
"""Reports of a trial before which nothing is decided about it."""

MEDIAN_FINISHED: Final = 5
"""Trials that must have run to their end for the median to mean something."""


@dataclass(frozen=True)
class Decision:
    """Why a trial is stopped."""

    rule: str
    """`curve`, `median` or `asha`."""
    message: str


class Stopper:
    """Decides about the running trials of one job; made anew when one of its trials has run to its end."""

    def __init__(
        self,
        spec: EarlyStopping,
        objective: Objective,
        ended: Sequence[Curve],
        prior: CurveModel | None = None,
    ) -> None:
        """Take the whole curves of this job, and what those of past jobs tell."""
        self._spec = spec
        self._objective = objective
        self._ended = [curve for curve in ended if curve.points]
        values = [curve.last for curve in self._ended]
        past = prior.of(values, objective) if prior is not None and values else None
        self.model: CurveModel | None = past or own_model(objective, self._ended)
        """What predicts final values, for whatever rule; None where nothing can be said."""

    @property
    def method(self) -> StopMethod:
        """The rule in force: `auto` is `curve` with past curves, else none is safe enough."""
        if self._spec.method is not StopMethod.AUTO:
            return self._spec.method
        known = self.model is not None and self.model.tasks
        return StopMethod.CURVE if known else StopMethod.NONE

    def decide(self, curve: Curve, others: Sequence[Curve] = ()) -> Decision | None:
        """Return why a running trial is stopped, or None.

        `others` are the curves of trials that run or were stopped, which `asha` compares with, too.
        """
        method = self.method
        if method is StopMethod.NONE or not self._due(curve):
            return None
        incumbent = self._best()
        if not self._objective.better(incumbent, curve.last):
            return None
        if method is StopMethod.CURVE:
            return self._by_curve(curve, incumbent)
        if method is StopMethod.MEDIAN:
            return self._by_median(curve)
        return self._by_asha(curve, others)

    def final(self, curve: Curve) -> tuple[float, float] | None:
        """Return what a trial that was stopped would have come to, and the deviation of that.

        Of one that had run to its end that is its value, with deviation 0; None where nothing can be said.
        """
        if not curve.points:
            return None
        if curve.share >= 1:
            return curve.last, 0.0
        return self.model.final(curve) if self.model is not None else None

    def _due(self, curve: Curve) -> bool:
        """Whether enough is known of the job and of the trial, and something is left to be saved."""
        return (
            len(self._ended) >= max(1, self._spec.grace_trials)
            and len(curve.points) >= MIN_REPORTS
            and self._earliest(curve) <= curve.points[-1][0] < curve.full
        )

    def _earliest(self, curve: Curve) -> float:
        return self._spec.min if self._spec.min is not None else EARLIEST * curve.full

    def _best(self) -> float:
        best = self._ended[0].last
        for curve in self._ended:
            if self._objective.better(curve.last, best):
                best = curve.last
        return best

    def _by_curve(self, curve: Curve, incumbent: float) -> Decision | None:
        model = self.model
        behind = model.behind(curve, incumbent) if model is not None else -math.inf
        if model is None or behind <= model.z:
            return None
        source = f"{model.tasks} past jobs" if model.tasks else "this job"
        odds = chance(behind)
        message = (
            f"at {curve.share:.0%} its chance of beating {incumbent:g} is {odds:.2g} "
            f"(less than {chance(model.z):.2g}), by {model.curves} curves of {source}"
        )
        return Decision(StopMethod.CURVE.value, message)

    def _by_median(self, curve: Curve) -> Decision | None:
        if len(self._ended) < MEDIAN_FINISHED:
            return None
        epoch = curve.points[-1][0]
        middle = statistics.median(other.at(epoch) for other in self._ended)
        if not self._objective.better(middle, curve.last):
            return None
        message = f"at epoch {epoch:g} its {curve.last:g} is worse than the median {middle:g}"
        return Decision(StopMethod.MEDIAN.value, message)

    def _by_asha(self, curve: Curve, others: Sequence[Curve]) -> Decision | None:
        """Stop what is not among the best 1/eta at a rung: L. Li et al., MLSys 2020.

        The variant that stops instead of pausing, as a paused trial would hold its place on the GPU.
        """
        rung = self._rung(curve)
        if rung is None:
            return None
        rivals = [
            *self._ended,
            *(one for one in others if one.points and one.points[-1][0] >= rung),
        ]
        here = curve.at(rung)
        better = sum(self._objective.better(one.at(rung), here) for one in rivals)
        kept = max(1, (len(rivals) + 1) // self._spec.eta)
        if better < kept:
            return None
        message = f"at epoch {rung:g} {better} of {len(rivals)} trials are better, {kept} may go on"
        return Decision(StopMethod.ASHA.value, message)

    def _rung(self, curve: Curve) -> float | None:
        """Return the highest rung that the curve has reached, in epochs."""
        rung, found = self._earliest(curve), None
        reached = curve.points[-1][0]
        while 0 < rung <= reached and rung < curve.full and math.isfinite(rung):
            found = rung
            rung *= self._spec.eta
        return found
