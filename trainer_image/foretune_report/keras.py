"""Keras 3, one line: `model.fit(..., callbacks=[foretune_report.keras.Callback()])`; any backend."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import keras

from foretune_report.reporter import current

if TYPE_CHECKING:
    from collections.abc import Mapping


class Callback(keras.callbacks.Callback):  # type: ignore[misc, unused-ignore]
    """Reports each epoch's logs (`loss` also as `train_loss`), and ends the training when asked to."""

    def on_epoch_end(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Report an epoch, counted from 1."""
        metrics = dict(logs or {})
        if "loss" in metrics:
            metrics.setdefault("train_loss", metrics["loss"])
        current().report(metrics, epoch=epoch + 1)
        self.on_train_batch_end(-1)

    def on_train_batch_end(
        self,
        batch: int,  # noqa: ARG002 - the signature of Keras
        logs: Mapping[str, Any] | None = None,  # noqa: ARG002
    ) -> None:
        """End the training when the tracker asked for it."""
        if current().reply.should_stop:
            self.model.stop_training = True
