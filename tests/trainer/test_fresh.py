"""Models over words before they have learnt anything."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from foretune import contract
from foretune_trainer.data import Dataset
from foretune_trainer.data.datasets import Part
from foretune_trainer.data.words import FIRST_WORD, PAD
from foretune_trainer.models import build

if TYPE_CHECKING:
    from collections.abc import Callable

    from foretune_trainer.config import TrialConfig

CLASSES, WORDS, LENGTH = 4, 500, 12


def texts(count: int = 64) -> Dataset:
    """Return made texts of 4 to 12 words, the same in every part."""
    random = np.random.default_rng(0)
    rows = random.integers(FIRST_WORD, WORDS, (count, LENGTH)).astype(np.int32)
    rows[np.arange(LENGTH) >= random.integers(4, LENGTH + 1, (count, 1))] = PAD
    part = Part(rows, random.integers(0, CLASSES, count))
    return Dataset("text", CLASSES, part, part, part, "sha256:-", vocabulary=WORDS)


def fresh(make_config: Callable[..., TrialConfig], model: str, data: Dataset) -> torch.nn.Module:
    torch.manual_seed(0)
    workload: dict[str, Any] = {"model": model, "dataset": "ag_news", "extras": {"max_length": 24}}
    return build(make_config(workload=workload, params={}), data)


@pytest.mark.slow
@pytest.mark.parametrize("model", contract.BUILTIN_MODELS)
def test_guesses_evenly(make_config: Callable[..., TrialConfig], model: str) -> None:
    """The loss at the start is not far from that of guessing: little has to be unlearnt."""
    data = texts()
    found = fresh(make_config, model, data)(torch.from_numpy(data.train.inputs).long())
    loss = functional.cross_entropy(found, torch.from_numpy(data.train.labels)).item()
    assert loss < 1.6 * math.log(CLASSES)


@pytest.mark.slow
@pytest.mark.parametrize("model", contract.BUILTIN_MODELS)
def test_padding_changes_nothing(make_config: Callable[..., TrialConfig], model: str) -> None:
    """A text has the same logits in a batch of short texts as in one of longer ones."""
    data = texts()
    tokens = torch.from_numpy(data.train.inputs).long()
    found = fresh(make_config, model, data).eval()
    with torch.no_grad():
        short, long = found(tokens), found(functional.pad(tokens, (0, LENGTH), value=PAD))
    torch.testing.assert_close(short, long, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("model", ["transformer", "bert"])
def test_positions_are_heard(make_config: Callable[..., TrialConfig], model: str) -> None:
    """Fresh positions of patches are about as strong as the patches' vectors of standardised pixels."""
    random = np.random.default_rng(0)
    part = Part(random.integers(0, 255, (64, 1, 28, 28)).astype(np.uint8), np.zeros(64, np.int64))
    data = Dataset("image", CLASSES, part, part, part, "sha256:-")
    torch.manual_seed(0)
    found: Any = build(make_config(workload={"model": model, "dataset": "mnist"}, params={}), data)
    vectors, _ = found.inputs(torch.randn(64, 1, 28, 28))
    positions = (
        found.positions
        if model == "transformer"
        else found.encoder.embeddings.position_embeddings.weight
    )
    assert 0.5 < (positions.std() / vectors.std()).item() < 2.0
