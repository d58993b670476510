"""Our optimisers take the very steps of PyTorch's."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from foretune_trainer.optimiser import Optimiser

RULES: dict[str, Any] = {
    "adam": lambda p, wd: torch.optim.AdamW(p, lr=1.0, weight_decay=wd),
    "sgd": lambda p, wd: torch.optim.SGD(p, lr=1.0, momentum=0.9, nesterov=True),
    "rmsprop": lambda p, wd: torch.optim.RMSprop(p, lr=1.0),
}


def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3)).double()


def losses(of: nn.Module, step: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(step)
    inputs = torch.randn(8, 5, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, 3, (8,), generator=generator)
    return nn.functional.cross_entropy(of(inputs), labels)


@pytest.mark.slow
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("clip", [0.0, 0.05])
@pytest.mark.parametrize("captured", [False, True])
def test_same_steps(rule: str, clip: float, captured: bool) -> None:
    """Twenty steps with a changing learning rate, weight decay and clipping give the same weights.

    So they do in the form that a CUDA graph repeats.
    """
    decay = 0.1 if rule == "adam" else 0.0
    ours, theirs = model(), model()
    own = Optimiser(ours.parameters(), rule, weight_decay=decay, clip=clip, captured=captured)
    other = RULES[rule](theirs.parameters(), decay)
    for step in range(20):
        rate = 0.01 / (1 + step)
        own.clear()
        losses(ours, step).backward()
        own.step(rate)
        other.param_groups[0]["lr"] = rate
        other.zero_grad()
        losses(theirs, step).backward()
        if clip:
            nn.utils.clip_grad_norm_(theirs.parameters(), clip)
        other.step()
    for mine, reference in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine, reference, rtol=1e-9, atol=1e-12)


def test_frozen_parameters_stay() -> None:
    """Parameters that need no gradient are left alone."""
    frozen = model()
    first = next(frozen.parameters())
    first.requires_grad_(requires_grad=False)
    before = first.clone()
    own = Optimiser(frozen.parameters(), "sgd", weight_decay=0.5)
    losses(frozen, 0).backward()
    own.step(0.1)
    assert torch.equal(first, before)


@pytest.mark.parametrize("rule", RULES)
def test_state(rule: str) -> None:
    """A restored optimiser goes on as the one whose state it took."""
    straight, broken = model(), model()
    one = Optimiser(straight.parameters(), rule)
    two = Optimiser(broken.parameters(), rule)
    for step in range(6):
        if step == 3:
            state = two.state()
            two = Optimiser(broken.parameters(), rule)
            two.restore(state)
        for trained, optimiser in ((straight, one), (broken, two)):
            optimiser.clear()
            losses(trained, step).backward()
            optimiser.step(0.01)
    for mine, reference in zip(straight.parameters(), broken.parameters(), strict=True):
        assert torch.equal(mine, reference)


@pytest.mark.parametrize("rule", RULES)
def test_any_order_in_memory(rule: str) -> None:
    """Weights keep the order of their memory; what a checkpoint holds is in the order of the dimensions."""

    def trained(form: torch.memory_format) -> tuple[nn.Module, Optimiser]:
        torch.manual_seed(0)
        made = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(16, 3)).double()
        made.to(memory_format=form)  # type: ignore[call-overload]
        return made, Optimiser(made.parameters(), rule)

    def go_on(made: nn.Module, own: Optimiser, steps: range) -> None:
        for step in steps:
            generator = torch.Generator().manual_seed(step)
            pixels = torch.randn(8, 3, 4, 4, generator=generator, dtype=torch.float64)
            own.clear()
            made(pixels).square().mean().backward()
            own.step(0.01)

    plain, last = trained(torch.contiguous_format), trained(torch.channels_last)
    assert last[0][0].weight.is_contiguous(memory_format=torch.channels_last)
    assert last[0][0].weight.grad.is_contiguous(memory_format=torch.channels_last)
    go_on(*plain, range(5))
    go_on(*last, range(3))
    other = trained(torch.contiguous_format)
    other[0].load_state_dict(last[0].state_dict())
    other[1].restore(last[1].state())
    go_on(*last, range(3, 5))
    go_on(*other, range(3, 5))
    for found in (last, other):
        for mine, reference in zip(found[0].parameters(), plain[0].parameters(), strict=True):
            torch.testing.assert_close(mine, reference, rtol=1e-9, atol=1e-12)
