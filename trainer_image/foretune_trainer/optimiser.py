"""Adam, SGD and RMSprop over one flat vector of all parameters.

PyTorch's own import its compiler at their first step, which takes longer than a small trial trains. The
rules are the same (`tests/trainer/test_optimiser.py` compares them step by step); a flat vector makes a
step a handful of operations, whatever the number of layers.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import Tensor

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
        captured: bool = False,
    ) -> None:
        """Take the trainable parameters; `weight_decay` is decoupled, `clip` a norm (0 for none).

        With `captured` the numbers that change from step to step are tensors on the device, so that a CUDA
        graph of `follow` may be repeated. Parameters keep the order of their memory (`channels_last`).
        """
        kept = [p for p in parameters if p.requires_grad]
        self.flat = torch.cat([p.detach().reshape(-1) for p in kept])
        self.gradient = torch.zeros_like(self.flat)
        self._rule = rule
        self._decay, self._momentum, self._clip = weight_decay, momentum, clip
        self.steps = 0
        self._first = torch.zeros_like(self.flat) if rule != "rmsprop" else None
        self._second = torch.zeros_like(self.flat) if rule != "sgd" else None
        self._pace: float | Tensor = 0.0
        self._shrink: float | Tensor = 1.0
        self._root: float | Tensor = 1.0
        if captured:
            self._pace, self._shrink, self._root = torch.zeros(
                3, dtype=torch.float64, device=self.flat.device
            ).unbind()
        self._views: list[tuple[int, int, torch.Size, tuple[int, ...]]] = []
        start = 0
        for parameter in kept:
            end = start + parameter.numel()
            stride = _stride(parameter)
            self._views.append((start, end, parameter.shape, stride))
            view = self.flat[start:end].as_strided(parameter.shape, stride)
            view.copy_(parameter.detach())
            parameter.data = view
            parameter.grad = self.gradient[start:end].as_strided(parameter.shape, stride)
            start = end

    def clear(self) -> None:
        """Forget the gradients."""
        self.gradient.zero_()

    def step(self, rate: float) -> None:
        """Follow the gradients once, with learning rate `rate`."""
        self.prepare(rate)
        self.follow()

    def prepare(self, rate: float) -> None:
        """Count a step of learning rate `rate`, which `follow` then makes."""
        self.steps += 1
        pace, root = rate, 1.0
        if self._rule == "adam":
            mean, square = BETAS
            pace, root = rate / (1.0 - mean**self.steps), math.sqrt(1.0 - square**self.steps)
        self._pace = _set(self._pace, pace)
        self._shrink = _set(self._shrink, 1.0 - rate * self._decay)
        self._root = _set(self._root, root)

    @torch.no_grad()
    def follow(self) -> None:
        """Follow the gradients once; all of it happens on the device."""
        gradient = self.gradient
        if self._clip:
            gradient.mul_((self._clip / (gradient.norm() + 1e-6)).clamp(max=1.0))
        if self._decay:
            self.flat.mul_(self._shrink)
        first, second = self._first, self._second
        if second is None:
            assert first is not None
            # The first step fills the momentum with the gradient itself.
            first.mul_(self._momentum).add_(gradient)
            self._move(gradient.add(first, alpha=self._momentum), None)
        elif first is None:
            second.mul_(ALPHA).addcmul_(gradient, gradient, value=1.0 - ALPHA)
            self._move(gradient, second.sqrt().add_(EPSILON))
        else:
            mean, square = BETAS
            first.lerp_(gradient, 1.0 - mean)
            second.mul_(square).addcmul_(gradient, gradient, value=1.0 - square)
            self._move(first, second.sqrt().div_(self._root).add_(EPSILON))

    def _move(self, way: Tensor, under: Tensor | None) -> None:
        """Go `way` (over `under`, if there is one) by the pace."""
        pace = self._pace
        if isinstance(pace, Tensor):
            self.flat.sub_((way if under is None else way / under) * pace)
        elif under is None:
            self.flat.add_(way, alpha=-pace)
        else:
            self.flat.addcdiv_(way, under, value=-pace)

    def vectors(self) -> list[Tensor]:
        """Return all that a step changes."""
        own = (self.flat, self.gradient, self._first, self._second)
        return [one for one in own if one is not None]

    def state(self) -> dict[str, Any]:
        """Return what goes on in a resumed run, the parameters excepted, in whatever order memory has."""
        first, second = (
            None if one is None else self._in_order(one) for one in (self._first, self._second)
        )
        return {"steps": self.steps, "first": first, "second": second}

    def restore(self, state: dict[str, Any]) -> None:
        """Take what `state` returned."""
        self.steps = int(state["steps"])
        for own, kept in ((self._first, state["first"]), (self._second, state["second"])):
            if own is not None:
                for start, end, shape, stride in self._views:
                    part = own[start:end].as_strided(shape, stride)
                    part.copy_(kept[start:end].view(shape))

    def _in_order(self, vector: Tensor) -> Tensor:
        """Return a vector with each parameter's numbers in the order of its dimensions."""
        return torch.cat(
            [
                vector[start:end].as_strided(shape, stride).reshape(-1)
                for start, end, shape, stride in self._views
            ]
        )


def _stride(parameter: Tensor) -> tuple[int, ...]:
    """Return a parameter's strides where it is dense in memory, else those it would have."""
    last = parameter.dim() == 4 and parameter.is_contiguous(  # noqa: PLR2004 - n x c x h x w
        memory_format=torch.channels_last
    )
    return parameter.stride() if last else parameter.contiguous().stride()


def _set(old: float | Tensor, new: float) -> float | Tensor:
    """Return `new`, within the tensor `old` if that is one: a write on the device that nobody waits for."""
    return old.fill_(new) if isinstance(old, Tensor) else new
