"""Trials, run in this process or as processes of their own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from tests.support.trials import Tracked, a_pod, tracked_trial, trial_json

from foretune_report import Reporter
from foretune_trainer import config, data, loop
from foretune_trainer.resources import Meter

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    """More threads than cores make small models many times slower."""
    torch.set_num_threads(1)


@pytest.fixture
def tracked(tmp_path: Path) -> Iterator[Tracked]:
    """A trial that a real tracker holds."""
    with tracked_trial(tmp_path) as found:
        yield found


@pytest.fixture
def pod(tmp_path: Path) -> Any:
    """Return a function that makes a pod of this test."""
    return lambda **changes: a_pod(tmp_path, **changes)


def a_config(**changes: Any) -> config.TrialConfig:
    """Return the configuration of a trial.json; keyword arguments replace parts."""
    return config.parse(trial_json(**changes), {})


def a_training(
    chosen: config.TrialConfig, leave: Callable[[], bool] = lambda: False
) -> loop.Training:
    """Return a training in this process, which reports to nobody."""
    return loop.Training(
        chosen,
        data.load(chosen),
        device=torch.device("cpu"),
        reporter=Reporter({}),
        meter=Meter(0.0),
        leave=leave,
    )


@pytest.fixture
def make_config() -> Any:
    """Return `a_config`."""
    return a_config


@pytest.fixture
def make_training() -> Any:
    """Return `a_training`."""
    return a_training
