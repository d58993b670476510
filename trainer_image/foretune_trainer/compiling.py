"""Whether `torch.compile` pays, and its use. It changes no rule of the training, but the last digits."""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING, Final

import torch

from foretune_trainer.errors import BadExtraError
from foretune_trainer.step import GraphedStep

if TYPE_CHECKING:
    from foretune_trainer.step import Step

COMPILE_S: Final = 60.0
"""Seconds that compiling a model is taken to last; `foretune_trainer.bench` measures it on a card."""

WORTH: Final = 10.0
"""`auto` compiles when the epochs to come last so many times longer."""

BACKEND: Final = "inductor"
"""What PyTorch compiles with."""


class Compiling:
    """Decides before each epoch; `state` is `off`, `on`, or `off: ` and why `auto` never will."""

    def __init__(self, asked: str, device: torch.device) -> None:
        """Take the extra `compile`; raises `BadExtraError` for `on` where there is no C compiler."""
        self.state = "off"
        self._asked = asked
        self._epoch_s: float | None = None
        self._begins = False
        missing = _missing(device) if asked != "off" else None
        if missing is not None:
            if asked == "on":
                raise BadExtraError(f"workload.extras.compile: {missing}")
            self._asked, self.state = "off", f"off: {missing}"

    def before_epoch(self, step: Step, left: int) -> None:
        """Compile the model of `step` when it is time to; `left` epochs are still to be trained."""
        if self._asked == "off" or self.state == "on":
            return
        seconds = None if self._epoch_s is None else left * self._epoch_s
        if self._asked == "on" or (seconds is not None and seconds > WORTH * COMPILE_S):
            step.forward = torch.compile(step.model, backend=BACKEND, dynamic=False)
            if isinstance(step, GraphedStep):
                step.forget()
            self.state, self._begins = "on", True

    def begins(self) -> bool:
        """Whether the next step is the first one that is compiled; asked once for each step."""
        begins, self._begins = self._begins, False
        return begins

    def after_epoch(self, seconds: float, *, whole: bool) -> None:
        """Take how long an epoch was trained; one that began in its midst tells nothing."""
        if whole:
            self._epoch_s = seconds


def _missing(device: torch.device) -> str | None:
    """Return what compiling lacks here, or None."""
    names = ("CC", "gcc", "cc", "clang") if device.type == "cuda" else ("CXX", "g++", "clang++")
    found = (shutil.which(os.environ.get(name, name)) for name in names)
    if any(found):
        return None
    return "needs a C compiler, which the image's target gpu-compile has"
