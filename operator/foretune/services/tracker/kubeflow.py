"""The status that programs post to Kubeflow Trainer, as a report. `docs/guides/own-script.md` has its limits.

The Trainer of `transformers` posts it by itself: every five seconds at most, the latest value of each
metric it ever logged, as texts, and nothing that says which of them are new.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.alias_generators import to_camel

from foretune import contract
from foretune.adapters.http.wire import LARGEST, MAX_METRICS
from foretune.errors import InvalidReportError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from foretune.domain.trial import Point

MAX_NAME: Final = 128
"""Characters of a metric's name, as in a report."""

MAX_EPOCH: Final = 1e9
"""Epochs above this are taken for something else."""

NOT_METRICS: Final = frozenset(
    {"current_step", "total_steps", "current_epoch", "epoch", "learning_rate", "total_flos"}
)
"""Entries that say where the training is, not how good."""


class _Model(BaseModel):
    model_config = ConfigDict(extra="ignore", alias_generator=to_camel, frozen=True)


class _Metric(_Model):
    name: str
    value: str | float


class Status(_Model):
    """What is read of a status; unknown fields are somebody's next version."""

    metrics: list[_Metric] = Field(default_factory=list, max_length=MAX_METRICS)

    def numbers(self) -> dict[str, float]:
        """Return the metrics whose values are numbers, NaN and infinities among them.

        What is no number, or has a name that no report may have, is left out.
        """
        found = {}
        for metric in self.metrics:
            if not 0 < len(metric.name) <= MAX_NAME:
                continue
            try:
                found[metric.name] = float(metric.value)
            except ValueError:
                continue
        return found


class _Body(_Model):
    trainer_status: Status


def read_status(body: bytes) -> Status:
    """Return the status of a body; raises `InvalidReportError` naming the field."""
    try:
        return _Body.model_validate_json(body).trainer_status
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise InvalidReportError(f"{where or 'body'}: {first['msg']}") from None


def report_of(status: Status, curve: Sequence[Point]) -> dict[str, Any] | None:
    """Return the report of a status, without its identity; None when it says nothing new.

    `curve` is what is known of the trial. An evaluation is new when one of its values differs from the
    latest; its epoch is the last whole one since then, since evaluations follow epochs more often than
    not. The log, which is read at the end, knows better.
    """
    numbers = status.numbers()
    at = _bounded(numbers.get("epoch", numbers.get("current_epoch")), MAX_EPOCH)
    step = _bounded(numbers.get("current_step"), LARGEST)
    named = contract.evaluation_names(
        {name: value for name, value in numbers.items() if name not in NOT_METRICS}
    )
    if "loss" in named:  # the last one logged; `train_loss`, which comes at the end, is a mean
        named["train_loss"] = named["loss"]
    metrics, nonfinite = contract.split_metrics(named)
    judged = {n for n in named if n.startswith(contract.EVAL_PREFIX)} or set(named)
    compared = judged & set(metrics)  # NaN equals nothing: whether it is a new one can't be seen
    known: dict[str, float] = {}
    for point in curve:
        known |= point.metrics
    if not judged or (compared and all(metrics[name] == known.get(name) for name in compared)):
        return None
    before = curve[-1].epoch if curve else 0.0
    if at is not None and math.floor(at) > before:
        at = float(math.floor(at))
    report: dict[str, Any] = {"metrics": metrics, "nonfinite": nonfinite}
    report |= {"epoch": at} if at is not None else {}
    report |= {"step": int(step)} if step is not None else {}
    return {**report, "kind": "step" if at is None else "epoch"}


def _bounded(value: float | None, limit: float) -> float | None:
    return value if value is not None and 0 <= value <= limit else None
