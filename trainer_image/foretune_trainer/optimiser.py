"""Adam, SGD and RMSprop over one flat vector of all parameters.

PyTorch's own import its compiler at their first step, which takes longer than a small trial trains. The
rules are the same (`tests/trainer/test_optimiser.py` compares them step by step); a flat vector makes a
step a handful of operations, whatever the number of layers.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final

import torch

if TYPE_CHECKING:
    from collections.abc import Iterable

BETAS: Final = (0.9, 0.999)
"""Adam's decays of mean and square."""

ALPHA: Final = 0.99
"""RMSprop's decay of the square."""

EPSILON: Final = 1e-8
"""Added to denominators."""


class Optimiser:
    """Owns the parameters' storage: they and their gradients become views of two flat vectors."""

    def __init__(
        self,
        parameters: Iterable[torch.nn.Parameter],
        rule: str,
        *,
        weight_decay: float = 0.0,
        momentum: float = 0.9,
        clip: float = 0.0,
    ) -> None:
        """Take the trainable parameters; `weight_decay` is decoupled, `clip` a norm (0 for none)."""
        kept = [p for p in parameters if p.requires_grad]
        self.flat = torch.cat([p.detach().reshape(-1) for p in kept])
        self.gradient = torch.zeros_like(self.flat)
        self._rule = rule
        self._decay, self._momentum, self._clip = weight_decay, momentum, clip
        self.steps = 0
        self._first = torch.zeros_like(self.flat) if rule != "rmsprop" else None
        self._second = torch.zeros_like(self.flat) if rule != "sgd" else None
        start = 0
        for parameter in kept:
            end = start + parameter.numel()
            parameter.data = self.flat[start:end].view_as(parameter)
            parameter.grad = self.gradient[start:end].view_as(parameter)
            start = end

    def clear(self) -> None:
        """Forget the gradients."""
        self.gradient.zero_()

    @torch.no_grad()
    def step(self, rate: float) -> None:
        """Follow the gradients once, with learning rate `rate`."""
        self.steps += 1
        gradient = self.gradient
        if self._clip:
            gradient.mul_((self._clip / (gradient.norm() + 1e-6)).clamp(max=1.0))
        if self._decay:
            self.flat.mul_(1.0 - rate * self._decay)
        first, second = self._first, self._second
        if second is None:
            assert first is not None
            # The first step fills the momentum with the gradient itself.
            first.mul_(self._momentum).add_(gradient)
            self.flat.add_(gradient.add(first, alpha=self._momentum), alpha=-rate)
        elif first is None:
            second.mul_(ALPHA).addcmul_(gradient, gradient, value=1.0 - ALPHA)
            self.flat.addcdiv_(gradient, second.sqrt().add_(EPSILON), value=-rate)
        else:
            mean, square = BETAS
            first.lerp_(gradient, 1.0 - mean)
            second.mul_(square).addcmul_(gradient, gradient, value=1.0 - square)
            root = second.sqrt().div_(math.sqrt(1.0 - square**self.steps)).add_(EPSILON)
            self.flat.addcdiv_(first, root, value=-rate / (1.0 - mean**self.steps))

    def state(self) -> dict[str, Any]:
        """Return what goes on in a resumed run, the parameters excepted."""
        return {"steps": self.steps, "first": self._first, "second": self._second}

    def restore(self, state: dict[str, Any]) -> None:
        """Take what `state` returned."""
        self.steps = int(state["steps"])
        for own, kept in ((self._first, state["first"]), (self._second, state["second"])):
            if own is not None:
                own.copy_(kept)
