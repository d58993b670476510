"""The training loop: plain, without a wait for the device in a step, resumable at every step."""

from __future__ import annotations

import math
import sys
import time
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import torch
from torch.nn import functional

from foretune.contract import Action
from foretune_trainer import batches, checkpoint, compiling, precision
from foretune_trainer.batches import Planner, Split
from foretune_trainer.config import MASKED, natural
from foretune_trainer.errors import DivergedError, PreemptedError
from foretune_trainer.models import WIDTHS, build
from foretune_trainer.optimiser import Optimiser
from foretune_trainer.step import GraphedStep, Step

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from foretune_report import Reporter
    from foretune_trainer.config import TrialConfig
    from foretune_trainer.data import Dataset
    from foretune_trainer.resources import Meter

EVALUATION_BATCH: Final = 512
"""Examples evaluated at once; it changes no result."""

GRAPH_BATCH: Final = 64
"""Largest batch whose step `graph: auto` captures: with small ones a GPU waits for kernels to be started."""

GROUP_FROM: Final = 0.1
"""Share of a text's ids that grouping by length must save, for `length_groups: auto` to group."""

PATIENCE: Final = 2
"""Epochs in a row with a loss that is not finite, after which a trial has diverged."""


def pick_device() -> torch.device:
    """Return the first CUDA device that this process may use, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@dataclass
class Progress:
    """Where the training stands; all of it is in a checkpoint."""

    epoch: int = 0
    """Epochs done."""
    step: int = 0
    """Steps done in the epoch after it."""
    steps: int = 0
    """Steps done in all."""
    broken: int = 0
    """Epochs in a row whose losses were not finite."""


class Training:
    """One trial from here to its end."""

    def __init__(
        self,
        config: TrialConfig,
        data: Dataset,
        *,
        device: torch.device,
        reporter: Reporter,
        meter: Meter,
        leave: Callable[[], bool],
    ) -> None:
        """Build the model; `leave` tells whether the process was asked to end."""
        self._config, self._data, self._device = config, data, device
        self._reporter, self._meter, self._leave = reporter, meter, leave
        torch.manual_seed(config.seed)
        self.model = build(config, data).to(device)
        encoder = config.model in ("transformer", "bert")
        self._precision = precision.resolve(
            config["precision"], device, _width(self.model, config) if encoder else 0
        )
        precision.prepare(self._precision, device)
        if device.type == "cuda":
            self.model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        on_device = batches.resident(data, device)
        small = config["graph"] == "on" or config["batch_size"] <= GRAPH_BATCH
        captured = device.type == "cuda" and on_device and config["graph"] != "off" and small
        self._optimiser = Optimiser(
            self.model.parameters(),
            config["optimizer"],
            weight_decay=config["weight_decay"],
            momentum=config["momentum"],
            clip=config["gradient_clip"],
            captured=captured,
        )
        self._train = Split(data.train, data, device, on_device=on_device)
        self._valid = Split(data.valid, data, device, on_device=on_device)
        self._steps: int = math.ceil(len(self._train) / config["batch_size"])
        self._planner, self._grouped = _planner(config, data)
        parts: dict[str, Any] = {
            "device": device,
            "precision": self._precision,
            "smoothing": config["label_smoothing"],
        }
        taken = (self.model, self._optimiser, self._train)
        self._step = (
            GraphedStep(*taken, size=config["batch_size"], **parts)
            if captured
            else Step(*taken, **parts)
        )
        self._loss = self._step.loss
        self._compiling = compiling.Compiling(config["compile"], device)
        self.progress = Progress()
        self._checkpoints = checkpoint.Checkpoints(
            config.checkpoint_dir, config.digest, config.checkpoint_every_s
        )
        self._told = False
        self._said = ""

    # ------------------------------------------------------------------ resume
    def resume(self) -> bool:
        """Go on from the trial's checkpoint; False when it starts anew."""
        state = self._checkpoints.load(self._device)
        if state is None:
            return False
        self.model.load_state_dict(state["model"])
        self._optimiser.restore(state["optimiser"])
        self._loss.copy_(state["loss"])
        self.progress = Progress(**state["progress"])
        checkpoint.restore_random_state(state["random"], self._device)
        return True

    def save(self) -> bool:
        """Write a checkpoint; False when there is no folder for it. Raises `OSError`."""
        with self._meter.phase("checkpoint"):
            return self._checkpoints.save(
                {
                    "model": self.model.state_dict(),
                    "optimiser": self._optimiser.state(),
                    "loss": self._loss,
                    "progress": vars(self.progress).copy(),
                    "random": checkpoint.random_state(self._device),
                },
                epoch=self.progress.epoch,
                step=self.progress.step,
            )

    def keep(self) -> str:
        """Write a checkpoint, and say what came of it: where that is impossible the training may go on."""
        try:
            return "a checkpoint was written" if self.save() else "there is no checkpoint folder"
        except OSError as error:
            newest = self._checkpoints.newest
            then = f"goes on from {newest}" if newest is not None else "starts anew"
            why = error.strerror or str(error)
            return f"no checkpoint could be written: {why}; another attempt {then}"

    # ------------------------------------------------------------------- train
    def run(self) -> bool:
        """Train to the last epoch; False when the tracker asked to stop before it.

        Raises `DivergedError`, `PreemptedError`.
        """
        epochs = self._config["epochs"]
        while self.progress.epoch < epochs:
            if not self._epoch(self.progress.epoch + 1):
                return False
            self._report()
            if self.progress.broken >= PATIENCE:
                raise DivergedError(f"the loss was not finite in {PATIENCE} epochs in a row")
            if self._checkpoints.due:
                failed = self._checkpoints.failed
                said = self.keep()
                if self._checkpoints.failed > failed and said != self._said:
                    self._said = said
                    print(
                        f"foretune_trainer: {said}; training goes on", file=sys.stderr, flush=True
                    )
        return True

    def _epoch(self, epoch: int) -> bool:
        """Train one epoch, or the rest of it; False when asked to stop."""
        plan = self._planner.plan(epoch, self._train.place)
        self._compiling.before_epoch(self._step, self._config["epochs"] - epoch + 1)
        self.model.train()
        begin, first = time.monotonic(), self.progress.step
        with self._meter.phase("train"):
            batch = plan.step(first) if first < self._steps else None
            for step in range(first, self._steps):
                if not self._may_go_on():
                    return False
                assert batch is not None
                with self._compile_phase():
                    self._step(*batch, self._rate())
                count = len(batch[0])
                self._meter.trained(count)
                self.progress.step += 1
                self.progress.steps += 1
                if step + 1 < self._steps:
                    batch = plan.step(step + 1)
                    self._train.send_ahead(*batch)
            train_loss = float(self._loss.item()) / len(self._train)  # waits for the device
        self._compiling.after_epoch(time.monotonic() - begin, whole=first == 0)
        with self._meter.phase("eval"):
            accuracy, valid_loss = self.evaluate(self._valid)
        self._result = {"accuracy": accuracy, "val_loss": valid_loss, "train_loss": train_loss}
        finite = math.isfinite(train_loss) and math.isfinite(valid_loss)
        self.progress.broken = 0 if finite else self.progress.broken + 1
        self.progress.epoch, self.progress.step = epoch, 0
        self._loss.zero_()
        return True

    def endless(self) -> Iterator[int]:
        """Train step after step, epoch after epoch, for measurements; yields the examples of each step."""
        epoch = 0
        while True:
            epoch += 1
            plan = self._planner.plan(epoch, self._train.place)
            self._compiling.before_epoch(self._step, 1)
            self.model.train()
            for number in range(plan.steps):
                batch = plan.step(number)
                self._step(*batch, self._rate())
                yield len(batch[0])

    def _compile_phase(self) -> AbstractContextManager[None]:
        """Book the first step after `torch.compile` as compilation, since that is when it happens."""
        return self._meter.phase("compile") if self._compiling.begins() else nullcontext()

    def _may_go_on(self) -> bool:
        """Return False when the tracker asked to stop; raises `PreemptedError` when asked to leave."""
        reply = self._reporter.reply
        if self._leave() or reply.action is Action.PAUSE:
            at = f"epoch {self.progress.epoch}, step {self.progress.step}"
            raise PreemptedError(f"asked to leave after {at}; {self.keep()}")
        return not reply.should_stop

    def _rate(self) -> float:
        """Return the learning rate of the next step; its course spans the whole horizon of the trial."""
        rate, warmup = float(self._config["learning_rate"]), float(self._config["warmup"])
        steps = self._steps * self._config.horizon
        if self.progress.steps < warmup * steps:
            return rate * (self.progress.steps + 1) / (warmup * steps + 1)
        if self._config["schedule"] == "cosine":
            done = (self.progress.steps / steps - warmup) / (1.0 - warmup)
            rate *= 0.5 * (1.0 + math.cos(math.pi * done))
        return rate

    # ---------------------------------------------------------------- evaluate
    @torch.no_grad()
    def evaluate(self, split: Split) -> tuple[float, float]:
        """Return accuracy and mean loss."""
        self.model.eval()
        loss = torch.zeros((), device=self._device, dtype=torch.float64)
        right = torch.zeros((), device=self._device, dtype=torch.int64)
        for start in range(0, len(split), EVALUATION_BATCH):
            end = min(start + EVALUATION_BATCH, len(split))
            inputs, labels = split.batch(torch.arange(start, end, device=split.place))
            with precision.cast(self._precision, self._device):
                logits = self.model(inputs)
            loss += functional.cross_entropy(logits.float(), labels, reduction="sum")
            right += (logits.argmax(1) == labels).sum()
        # Waits for the device, once.
        found: list[float] = torch.stack((right.double(), loss)).tolist()
        return found[0] / len(split), found[1] / len(split)

    def test(self) -> float:
        """Return the accuracy on the test split; nothing is ever chosen by it."""
        with self._meter.phase("eval"):
            test = Split(self._data.test, self._data, self._device, on_device=self._train.on_device)
            return self.evaluate(test)[0]

    # ------------------------------------------------------------------ report
    def _report(self) -> None:
        progress = self.progress
        more: dict[str, Any] = {}
        if not self._told:
            self._told = True
            more = {"data_fingerprint": self._data.fingerprint, "tags": self.tags()}
        self._reporter.report(
            self._result,
            epoch=progress.epoch,
            step=progress.steps,
            progress=round(progress.epoch / self._config.horizon, 6),
            resources=self._meter.read(self._device),
            **more,
        )

    def report_test(self, accuracy: float) -> None:
        """Report the test's accuracy beside the last epoch; the objective never sees it."""
        self._reporter.report(
            {"test_accuracy": accuracy},
            epoch=self.progress.epoch,
            step=self.progress.steps,
            kind="final",
            progress=round(self.progress.epoch / self._config.horizon, 6),
            resources=self._meter.read(self._device),
        )

    def tags(self) -> dict[str, Any]:
        """Return on what and how this trial is trained, as its first record has it."""
        cuda = self._device.type == "cuda"
        return {
            "natural": natural(self._config.model, self._data.kind),
            "device": torch.cuda.get_device_name(self._device) if cuda else "cpu",
            "torch": torch.__version__,
            "threads": torch.get_num_threads(),
            "precision": self._precision,
            "data_on": self._train.place.type,
            "graph": isinstance(self._step, GraphedStep) and self._step.why_not is None,
            "compile": self._compiling.state,
            "length_groups": self._grouped,
            "parameters": sum(p.numel() for p in self.model.parameters() if p.requires_grad),
            "train": len(self._train),
            "valid": len(self._valid),
            "test": len(self._data.test),
        }


def _width(model: torch.nn.Module, config: TrialConfig) -> int:
    """Return the width of an encoder, which a pretrained one brings."""
    found: int = model.encoder.config.hidden_size if config.model == "bert" else config["width"]  # type: ignore[union-attr, assignment]
    return found or WIDTHS[config.model]


def _planner(config: TrialConfig, data: Dataset) -> tuple[Planner, bool]:
    """Return what makes the plan of an epoch, and whether it groups texts by their length."""
    count, size = len(data.train), config["batch_size"]
    plain = Planner(count, size, config.seed, None, 0)
    asked = config["length_groups"]
    if data.kind != "text" or asked == "off" or config.model not in MASKED:
        return plain, False
    longest = data.train.inputs.shape[1]
    grouped = Planner(count, size, config.seed, batches.lengths_of(data.train.inputs), longest)
    if asked == "auto" and batches.saved(grouped, longest) < GROUP_FROM:
        return plain, False
    return grouped, True
