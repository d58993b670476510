"""Made data: a pattern a class under noise, or sentences with words of their class; 5 % wrong labels."""

from __future__ import annotations

from typing import Final

import numpy as np

from foretune_trainer.data.tables import NO_IMAGES, Table
from foretune_trainer.errors import BadConfigError

SEED: Final = 20_11
"""The data depends on its name alone: every trial sees the same."""

SIDE: Final = 12
"""Pixels of a side."""

WRONG: Final = 0.05
"""Share of labels that are another class's, so that no model is right always."""

TEST: Final = 5
"""One example in so many is for the test."""

SMALLEST: Final = 20
"""Examples that each class needs at least."""


def make(kind: str, classes: int, size: int) -> tuple[Table, Table]:
    """Return train and test, together `size` examples of `classes` classes; `kind` is image or text."""
    if classes < 2 or size < SMALLEST * classes:  # noqa: PLR2004
        raise BadConfigError(
            f"workload.dataset: synthetic:{kind}:{classes}:{size}: needs at least 2 classes and "
            f"{SMALLEST} examples of each"
        )
    # The legacy generator, since numpy promises that its numbers never change.
    random = np.random.RandomState(SEED)
    truth = random.permutation(np.arange(size) % classes).astype(np.int64)
    shown = (truth + (random.rand(size) < WRONG) * random.randint(1, classes, size)) % classes
    held = np.arange(size) % TEST == 0
    if kind == "image":
        patterns = random.rand(classes, SIDE, SIDE) * 160
        pixels = patterns[truth] + random.randn(size, SIDE, SIDE) * 40
        images = pixels.clip(0, 255).astype(np.uint8)[:, None]
        return Table(shown[~held], images[~held]), Table(shown[held], images[held])
    texts = []
    for label in truth:
        own = [f"class{label}word{n}" for n in random.randint(0, 20, 3)]
        common = [f"word{n}" for n in random.randint(0, 200, random.randint(5, 15))]
        texts.append(" ".join(random.permutation(own + common)))
    train = [text for text, out in zip(texts, held, strict=True) if not out]
    test = [text for text, out in zip(texts, held, strict=True) if out]
    return Table(shown[~held], NO_IMAGES, train), Table(shown[held], NO_IMAGES, test)
