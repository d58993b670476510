"""All 25 cells: five models by five data sets, on a few real examples or on made ones of the same form."""

from __future__ import annotations

import dataclasses
import io
import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from tests.support.trials import trial_json

from foretune import contract
from foretune_report import Reporter
from foretune_trainer import config, data, loop
from foretune_trainer.resources import Meter

if TYPE_CHECKING:
    from foretune_trainer.data import Dataset

CLASSES: Final = {"mnist": 10, "cifar10": 10, "imdb": 2, "ag_news": 4, "sst2": 2}

SAMPLES: Final = {"mnist": 640, "cifar10": 640, "imdb": 2000, "ag_news": 1000, "sst2": 2000}
"""Examples to train on and validate with: as few as leave every model clearly above chance."""

WIDTHS: Final = {"cnn": 16, "resnet": 16, "lstm": 32, "transformer": 32, "bert": 32}
"""Widths of the models: small ones."""

TESTED: Final = 600
"""Examples of the test that are looked at."""

DEVIATIONS: Final = 3.5
"""Standard deviations of guessing by which a cell must be right more often than guessing is."""


def made(dataset: str, folder: Path) -> Path:
    """Write a folder of the form of a data set: a pattern, or words, of each class under noise."""
    random, classes = np.random.default_rng(0), CLASSES[dataset]
    sides = {"mnist": (28, 28), "cifar10": (32, 32, 3)}.get(dataset, ())
    patterns = random.random((classes, *sides)) * 160
    for name, count in (("train", SAMPLES[dataset]), ("validation", TESTED)):
        labels = random.integers(0, classes, count)
        columns: dict[str, Any] = {"label": labels.tolist()}
        if sides:
            noisy = patterns[labels] + random.normal(0, 40, (count, *sides))
            pixels = noisy.clip(0, 255).astype(np.uint8)
            columns["image"] = [
                encoded(one) if len(sides) == 3 else one.tobytes() for one in pixels
            ]
        else:
            own = random.integers(0, 20, (count, 4))
            common = random.integers(0, 200, (count, 12))
            columns["text"] = [
                " ".join(random.permutation([f"c{label}w{n}" for n in a] + [f"w{n}" for n in b]))
                for label, a, b in zip(labels, own, common, strict=True)
            ]
        folder.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table(columns), folder / f"{name}.parquet")
    return folder


def encoded(pixels: np.ndarray[Any, Any]) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def chosen(model: str, dataset: str, folder: Path) -> config.TrialConfig:
    extras = {
        "max_samples": SAMPLES[dataset],
        "max_length": 40,
        "vocabulary": 4000,
        "width": WIDTHS[model],
    }
    workload = {"model": model, "dataset": dataset, "path": str(folder), "extras": extras}
    params = {"lr": 0.003, "epochs": 2, "batch_size": 32, "layers": 2, "dropout": 0.1}
    return config.parse(trial_json(workload=workload, params=params, seed=0), {})


def accuracy(one: config.TrialConfig, loaded: Dataset) -> float:
    training = loop.Training(
        one,
        loaded,
        device=torch.device("cpu"),
        reporter=Reporter({}),
        meter=Meter(0.0),
        leave=lambda: False,
    )
    assert training.run()
    return training.test()


@pytest.mark.slow
@pytest.mark.parametrize("dataset", CLASSES)
def test_every_model_is_above_chance(dataset: str, tmp_path: Path) -> None:
    """After two epochs each model is right far more often than guessing on examples it has not seen."""
    real = Path(os.environ.get("FORETUNE_DATA", "/nonexistent"), "datasets", dataset)
    folder = real if real.is_dir() else made(dataset, tmp_path)
    loaded = data.load(chosen("cnn", dataset, folder))
    assert (loaded.kind, loaded.classes) == (config.KINDS[dataset], CLASSES[dataset])
    loaded = dataclasses.replace(loaded, test=loaded.test.take(np.arange(TESTED)))
    guess = 1 / CLASSES[dataset]
    floor = guess + DEVIATIONS * math.sqrt(guess * (1 - guess) / TESTED)
    found = {
        model: accuracy(chosen(model, dataset, folder), loaded) for model in contract.BUILTIN_MODELS
    }
    assert {model: right for model, right in found.items() if right <= floor} == {}
