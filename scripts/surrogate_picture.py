"""Draws the picture of the model in docs/concepts/surrogate.md: `python -m scripts.surrogate_picture [FOLDER]`.

Past tasks and target are made: accuracy against one learning rate, so that a whole model fits on a page.
The designer is the one that users get.
"""

from __future__ import annotations

import math
import random
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import torch

from foretune.domain.job import Goal, Objective
from foretune.domain.space import Float, Scale, Space
from foretune.experiment.plots import COLOURS
from foretune.optimizer import Observation, Optimizer, TaskHistory
from foretune.search.conditioning import Mixed
from foretune.search.designer import Problem, SourceTask
from foretune.search.encode import Encoding
from foretune.search.meta_gp import basis_of
from foretune.search.targets import Targets

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

TARGET: Final = Path(__file__).parent.parent / "docs" / "pictures"
NAME: Final = "surrogate-model.svg"

SPACE: Final = Space((Float(name="lr", low=1e-5, high=1e-1, scale=Scale.LOG),))
"""One learning rate."""

PAST: Final = ((-3.4, 0.9, 0.94), (-3.0, 1.1, 0.88), (-2.7, 0.8, 0.91), (-3.7, 1.2, 0.84))
"""Past tasks: where the best learning rate is (log 10), how wide the hill is, and its top."""

OWN: Final = (-2.9, 0.9, 0.71)
"""The target: another top, at another place."""

TRIED: Final = 3
"""Trials of the picture of the model."""

GRID: Final = 161
"""Points at which the model is drawn."""

WIDTH, HEIGHT = 900, 290
PANEL: Final = 270
LEFT, TOP, BOTTOM = 44, 40, 44


def accuracy(task: tuple[float, float, float]) -> Callable[[float], float]:
    """Return a task's accuracy as a function of the learning rate."""
    place, width, top = task
    return lambda lr: 0.3 + (top - 0.3) * math.exp(-(((math.log10(lr) - place) / width) ** 2))


def past() -> list[TaskHistory]:
    """Return what past tasks tried."""
    found = []
    for i, task in enumerate(PAST):
        rng = random.Random(i)  # noqa: S311 - not cryptography
        value = accuracy(task)
        rates = [10 ** rng.uniform(-5, -1) for _ in range(25)]
        rows = [Observation({"lr": lr}, value=value(lr) + rng.gauss(0, 0.005)) for lr in rates]
        found.append(TaskHistory(f"past {i + 1}", rows, goal="maximize", metric="accuracy"))
    return found


@dataclass(frozen=True)
class Run:
    """A job: what was tried, what came of it, and what it could learn from."""

    rates: list[float]
    values: list[float]
    history: tuple[SourceTask, ...]


def job(value: Callable[[float], float]) -> Run:
    """Return a job of the designer that users get, with the past tasks as its history."""
    optimizer = Optimizer(SPACE, goal="maximize", metric="accuracy", history=past(), seed=1)
    history = optimizer.history
    assert isinstance(history, tuple)
    run = Run([], [], history)
    for _ in range(TRIED):
        (suggestion,) = optimizer.suggest()
        rate = float(suggestion.params["lr"])
        optimizer.observe(suggestion.id, value=value(rate))
        run.rates.append(rate)
        run.values.append(value(rate))
    return run


def model_picture() -> str:
    """Return three panels: past tasks; the model after three trials with them; and without."""
    run = job(accuracy(OWN))
    problem = Problem(
        space=SPACE,
        objective=Objective(metric="accuracy", goal=Goal.MAXIMIZE),
        seed=1,
        history=run.history,
    )
    basis, encoding = basis_of(problem), Encoding(SPACE)
    assert basis is not None
    rates = [10 ** (-5 + 4 * i / (GRID - 1)) for i in range(GRID)]
    rows = basis.at(encoding.encode([{"lr": rate} for rate in rates]))
    seen = basis.at(encoding.encode([{"lr": rate} for rate in run.rates]))
    targets = Targets.of(run.values, maximize=True)
    parts = _axes(0, "past tasks, each in its own unit", run)
    for t in range(len(PAST)):
        parts.append(_curve(0, rates, _scaled(rows.values[:, t]), colour=COLOURS[t + 1], width=1.4))
    parts.append(_curve(0, rates, _scaled(rows.values.mean(dim=1)), colour=COLOURS[0], width=3))
    for place, (title, with_past) in enumerate(
        (("with past tasks, three trials", True), ("without, the same three trials", False)), 1
    ):
        model = Mixed(seen, targets.z, kernel=basis.kernel, past=with_past)
        mean, sd = model.summary(rows)
        told = [targets.mean(float(m)) for m in mean]
        wide = [1.64 * targets.sd(float(s)) for s in sd]
        parts += _axes(place, title, run)
        parts.append(_band(place, rates, told, wide))
        truth = [accuracy(OWN)(rate) for rate in rates]
        parts.append(_curve(place, rates, truth, colour="#222", width=1.2, dash="5 4"))
        parts.append(_curve(place, rates, told, colour=COLOURS[0], width=2.4))
        parts += [
            f'<circle cx="{_x(place, rate):.1f}" cy="{_y(value):.1f}" r="4.5" fill="{COLOURS[1]}"/>'
            for rate, value in zip(run.rates, run.values, strict=True)
        ]
    return _svg(parts, "accuracy against learning rate; blue: expected, 90 %; dashed: the truth")


def _scaled(values: torch.Tensor) -> list[float]:
    low, high = float(values.min()), float(values.max())
    return [0.3 + 0.6 * (float(v) - low) / (high - low) for v in values]


def _x(place: int, rate: float) -> float:
    return LEFT + place * (PANEL + 20) + PANEL * (math.log10(rate) + 5) / 4


def _y(value: float) -> float:
    return TOP + (HEIGHT - TOP - BOTTOM) * (1.0 - max(0.0, min(1.0, value)))


def _axes(place: int, title: str, run: Run) -> list[str]:
    """Return a panel's frame; the learning rates that were tried are marked below it."""
    left, bottom = _x(place, 1e-5), HEIGHT - BOTTOM
    parts = [
        f'<rect x="{left:.1f}" y="{TOP}" width="{PANEL}" height="{bottom - TOP}" fill="none" stroke="#ccc"/>',
        f'<text x="{left:.1f}" y="{TOP - 8}" font-size="14">{title}</text>',
    ]
    parts += [
        _label(_x(place, 10.0**power), bottom + 16, f"1e{power}", "middle")
        for power in range(-5, 0)
    ]
    if place:
        parts += [
            f'<path d="M{_x(place, rate):.1f} {bottom} v-7" stroke="{COLOURS[1]}" stroke-width="2"/>'
            for rate in run.rates
        ]
    return parts


def _curve(
    place: int,
    rates: Sequence[float],
    values: Sequence[float],
    *,
    colour: str,
    width: float,
    dash: str = "",
) -> str:
    points = [(_x(place, rate), _y(value)) for rate, value in zip(rates, values, strict=True)]
    return _line(points, colour, width, dash)


def _line(points: Sequence[tuple[float, float]], colour: str, width: float, dash: str = "") -> str:
    told = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    dashed = f' stroke-dasharray="{dash}"' if dash else ""
    return (
        f'<polyline points="{told}" fill="none" stroke="{colour}" stroke-width="{width}"{dashed}/>'
    )


def _band(place: int, rates: Sequence[float], told: Sequence[float], wide: Sequence[float]) -> str:
    upper = [(_x(place, r), _y(m + w)) for r, m, w in zip(rates, told, wide, strict=True)]
    lower = [(_x(place, r), _y(m - w)) for r, m, w in zip(rates, told, wide, strict=True)]
    points = " ".join(f"{x:.1f},{y:.1f}" for x, y in [*upper, *reversed(lower)])
    return f'<polygon points="{points}" fill="{COLOURS[0]}" fill-opacity="0.15"/>'


def _label(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{text}</text>'


def _svg(parts: Sequence[str], caption: str) -> str:
    height = HEIGHT + 24
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
        'font-family="sans-serif" font-size="12" fill="#222">\n'
        f'<rect width="{WIDTH}" height="{height}" fill="#fff"/>\n'
    )
    foot = f'<text x="{WIDTH / 2}" y="{height - 8}" text-anchor="middle">{caption}</text>'
    return head + "\n".join([*parts, foot]) + "\n</svg>\n"


def main(folder: Path = TARGET) -> None:
    """Write the picture into `folder`."""
    torch.set_num_threads(1)
    path = folder / NAME
    path.write_text(model_picture(), encoding="utf-8")
    print(path)


if __name__ == "__main__":
    main(*(Path(argument) for argument in sys.argv[1:2]))
