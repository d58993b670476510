"""Hugging Face `Trainer`, one line: `Trainer(..., callbacks=[foretune_report.hf.Callback()])`.

Each evaluation is a report at full precision, its metrics with and without the prefix `eval_`
(`eval_loss` also as `val_loss`); the training loss comes along. A stop that the tracker asks for is
heard at the next step of a single process; with several processes it is left to SIGTERM, since one that
leaves alone would hang the others.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from transformers.trainer_callback import TrainerCallback

from foretune.contract import evaluation_names
from foretune_report.reporter import current, number_in

if TYPE_CHECKING:
    from collections.abc import Mapping

    from transformers.trainer_callback import TrainerControl, TrainerState
    from transformers.training_args import TrainingArguments


class Callback(TrainerCallback):  # type: ignore[misc, unused-ignore]
    """Reports evaluations and training losses of the process with rank 0."""

    def on_log(
        self,
        args: TrainingArguments,  # noqa: ARG002 - the Trainer's signature
        state: TrainerState,
        control: TrainerControl,  # noqa: ARG002
        logs: Mapping[str, Any] | None = None,
        **kwargs: Any,  # noqa: ARG002
    ) -> None:
        """Report the training loss of a step."""
        if state.is_world_process_zero and logs and "loss" in logs:
            metrics = {"train_loss": number_in(logs["loss"])}
            current().report(metrics, step=state.global_step, kind="step")

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        metrics: Mapping[str, Any] | None = None,
        **kwargs: Any,  # noqa: ARG002
    ) -> None:
        """Report an evaluation."""
        if state.is_world_process_zero:
            epoch = None if state.epoch is None else round(state.epoch, 4)
            current().report(named(metrics or {}), epoch=epoch, step=state.global_step)
        self.on_step_end(args, state, control)

    def on_step_end(
        self,
        args: TrainingArguments,
        state: TrainerState,  # noqa: ARG002
        control: TrainerControl,
        **kwargs: Any,  # noqa: ARG002
    ) -> None:
        """End the training when the tracker asked for it."""
        if args.world_size == 1 and current().reply.should_stop:
            control.should_training_stop = True


def named(metrics: Mapping[str, Any]) -> dict[str, float | None]:
    """Return an evaluation's metrics under their own names and without `eval_`."""
    numbers = {name: number_in(value) for name, value in metrics.items()}
    return evaluation_names({k: v for k, v in numbers.items() if not k.endswith("epoch")})
