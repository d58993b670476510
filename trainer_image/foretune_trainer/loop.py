"""The training loop: plain, without a wait for the device inside an epoch, resumable at every step."""

from __future__ import annotations

import math
import sys
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import Tensor
from torch.nn import functional

from foretune.contract import Action
from foretune_trainer import checkpoint
from foretune_trainer.config import natural
from foretune_trainer.errors import DivergedError, PreemptedError
from foretune_trainer.models import build
from foretune_trainer.optimiser import Optimiser

if TYPE_CHECKING:
    from collections.abc import Callable

    from foretune_report import Reporter
    from foretune_trainer.config import TrialConfig
    from foretune_trainer.data import Dataset, Part
    from foretune_trainer.resources import Meter

ORDER_STRIDE: Final = 1_000_003
"""The order of epoch e comes from seed * this + e, so that a resumed epoch has the order it had."""

EVALUATION_BATCH: Final = 512
"""Examples evaluated at once; it changes no result."""

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


class Split:
    """One part of the data, as it came, on the device."""

    def __init__(self, part: Part, data: Dataset, device: torch.device) -> None:
        """Take the part; pixels stay bytes until a batch is made."""
        self._inputs = torch.from_numpy(part.inputs).to(device)
        self._pixels = data.kind == "image"
        self._mean, self._deviation = data.mean, data.deviation
        self.labels = torch.from_numpy(part.labels).to(device)

    def __len__(self) -> int:
        return len(self.labels)

    def batch(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """Return what a model takes, and the labels, of the examples at `index`."""
        rows = self._inputs[index]
        if self._pixels:
            return rows.float().sub_(self._mean).div_(self._deviation), self.labels[index]
        return rows.long(), self.labels[index]


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
        self._optimiser = Optimiser(
            self.model.parameters(),
            config["optimizer"],
            weight_decay=config["weight_decay"],
            momentum=config["momentum"],
            clip=config["gradient_clip"],
        )
        self._train = Split(data.train, data, device)
        self._valid = Split(data.valid, data, device)
        self._steps: int = math.ceil(len(self._train) / config["batch_size"])
        self._loss = torch.zeros((), device=device, dtype=torch.float64)
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
                    print(f"foretune_trainer: {said}; training goes on", file=sys.stderr, flush=True)
        return True

    def _epoch(self, epoch: int) -> bool:
        """Train one epoch, or the rest of it; False when asked to stop."""
        order = self._order(epoch)
        size = self._config["batch_size"]
        self.model.train()
        with self._meter.phase("train"):
            for step in range(self.progress.step, self._steps):
                if not self._may_go_on():
                    return False
                self._step(order[step * size : (step + 1) * size])
            train_loss = float(self._loss.item()) / len(self._train)  # waits for the device
        with self._meter.phase("eval"):
            accuracy, valid_loss = self.evaluate(self._valid)
        self._result = {"accuracy": accuracy, "val_loss": valid_loss, "train_loss": train_loss}
        finite = math.isfinite(train_loss) and math.isfinite(valid_loss)
        self.progress.broken = 0 if finite else self.progress.broken + 1
        self.progress.epoch, self.progress.step = epoch, 0
        self._loss.zero_()
        return True

    def _order(self, epoch: int) -> Tensor:
        generator = torch.Generator().manual_seed(self._config.seed * ORDER_STRIDE + epoch)
        return torch.randperm(len(self._train), generator=generator).to(self._device)

    def _may_go_on(self) -> bool:
        """Return False when the tracker asked to stop; raises `PreemptedError` when asked to leave."""
        reply = self._reporter.reply
        if self._leave() or reply.action is Action.PAUSE:
            at = f"epoch {self.progress.epoch}, step {self.progress.step}"
            raise PreemptedError(f"asked to leave after {at}; {self.keep()}")
        return not reply.should_stop

    def _step(self, index: Tensor) -> None:
        inputs, labels = self._train.batch(index)
        with self._cast():
            loss = functional.cross_entropy(
                self.model(inputs), labels, label_smoothing=self._config["label_smoothing"]
            )
        self._optimiser.clear()
        loss.backward()  # type: ignore[no-untyped-call]
        self._optimiser.step(self._rate())
        self._loss.add_(loss.detach(), alpha=len(labels))
        self._meter.trained(len(labels))
        self.progress.step += 1
        self.progress.steps += 1

    def _cast(self) -> AbstractContextManager[Any]:
        if self._config["precision"] == "bf16":
            return torch.autocast(self._device.type, torch.bfloat16)
        return nullcontext()

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
            inputs, labels = split.batch(torch.arange(start, end, device=self._device))
            with self._cast():
                logits = self.model(inputs)
            loss += functional.cross_entropy(logits.float(), labels, reduction="sum")
            right += (logits.argmax(1) == labels).sum()
        return int(right.item()) / len(split), float(loss.item()) / len(split)

    def test(self) -> float:
        """Return the accuracy on the test split; nothing is ever chosen by it."""
        with self._meter.phase("eval"):
            return self.evaluate(Split(self._data.test, self._data, self._device))[0]

    # ------------------------------------------------------------------ report
    def _report(self) -> None:
        progress = self.progress
        more: dict[str, Any] = {}
        if not self._told:
            self._told = True
            more = {"data_fingerprint": self._data.fingerprint, "tags": self._tags()}
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

    def _tags(self) -> dict[str, Any]:
        cuda = self._device.type == "cuda"
        return {
            "natural": natural(self._config.model, self._data.kind),
            "device": torch.cuda.get_device_name(self._device) if cuda else "cpu",
            "torch": torch.__version__,
            "threads": torch.get_num_threads(),
            "parameters": sum(p.numel() for p in self.model.parameters() if p.requires_grad),
            "train": len(self._train),
            "valid": len(self._valid),
            "test": len(self._data.test),
        }
