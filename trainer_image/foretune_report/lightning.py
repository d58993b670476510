"""PyTorch Lightning, no line: in a trial the Trainer finds `factory` by its entry point.

It works for both packages (`pytorch_lightning`, `lightning`) wherever this one is installed, or on
PYTHONPATH with its metadata. By hand: `Trainer(callbacks=[foretune_report.lightning.callback()])`.
"""

from __future__ import annotations

import importlib
import math
import os
import sys
from typing import Any, Final

from foretune import contract
from foretune_report.reporter import current

PACKAGES: Final = ("lightning.pytorch", "pytorch_lightning")
"""Where the class `Callback` may be from."""


class Reporting:
    """The hooks; `callback` joins them to the `Callback` of the package that is used.

    Reported are the metrics that the module logged, once for each new value: a validation in the middle
    of an epoch with a fraction of the epoch, everything else at the epoch's end.
    """

    def __init__(self) -> None:
        """Nothing was told yet."""
        self._told: dict[str, Any] = {}
        self._told_of_epochs: dict[str, Any] = {}

    def on_validation_end(self, trainer: Any, module: Any) -> None:  # noqa: ARG002 - Lightning's
        """Report a validation in the middle of an epoch; at its end, `on_train_epoch_end` comes next."""
        if trainer.sanity_checking or trainer.state.fn != "fit":
            return
        epoch = _epoch(trainer)
        if epoch is None or not float(epoch).is_integer():
            self._report(trainer, epoch, self._told)

    def on_train_epoch_end(self, trainer: Any, module: Any) -> None:  # noqa: ARG002
        """Report an epoch, counted from 1; one that a stop cut off with what was validated in it."""
        epoch = _epoch(trainer) or trainer.current_epoch + 1
        whole = float(epoch).is_integer()
        self._report(trainer, epoch, self._told if whole else self._told_of_epochs)
        self._told_of_epochs = self._told

    def on_train_batch_end(self, trainer: Any, *_: Any, **__: Any) -> None:
        """End the training at this step when the tracker asked for it and nobody else takes part."""
        if trainer.world_size == 1 and current().reply.should_stop:
            trainer.should_stop = True

    def _report(self, trainer: Any, epoch: float | None, before: dict[str, Any]) -> None:
        logged = dict(trainer.callback_metrics)
        # Lightning makes a new tensor for each new value, and keeps the last one of each name for ever.
        fresh = {k: v for k, v in logged.items() if before.get(k) is not v}
        self._told = logged
        if trainer.is_global_zero and fresh:
            current().report(fresh, epoch=epoch, step=trainer.global_step)
        asked = trainer.is_global_zero and current().reply.should_stop
        if trainer.strategy.reduce_boolean_decision(asked, all=False):
            trainer.should_stop = True


def _epoch(trainer: Any) -> float | None:
    """Return the epochs done, the running one included; None where its length is not known."""
    batches, done = trainer.num_training_batches, trainer.fit_loop.epoch_loop.batch_idx + 1
    if not math.isfinite(batches):
        return None
    part = done / max(1, batches)
    return float(trainer.current_epoch + (1 if part >= 1 else round(part, 4)))


def callback(package: str | None = None) -> Any:
    """Return a callback for a Trainer of `package`, by default of the one that is imported."""
    name = package or next((name for name in PACKAGES if name in sys.modules), PACKAGES[-1])
    base = importlib.import_module(name).Callback
    return type("ForetuneCallback", (Reporting, base), {})()


def factory() -> list[Any]:
    """Return the callback in a trial, and none elsewhere: for `pytorch_lightning.callbacks_factory`."""
    return [callback("pytorch_lightning")] if contract.ENV_TRIAL in os.environ else []


def unified_factory() -> list[Any]:
    """Return the same for `lightning.pytorch.callbacks_factory`."""
    return [callback("lightning.pytorch")] if contract.ENV_TRIAL in os.environ else []
