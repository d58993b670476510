"""Programs of other people's frameworks report to a real tracker, and end when it asks them to."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest
from tests.support.until import until

if TYPE_CHECKING:
    from foretune.domain.trial import Point

pytestmark = pytest.mark.slow

PROGRAMS: Final = Path(__file__).parents[1] / "data" / "programs"
FRAMEWORKS: Final = {
    "transformers": ("accelerate", {"accuracy", "eval_accuracy", "eval_loss", "val_loss"}),
    "lightning": ("pytorch_lightning", {"accuracy", "val_loss", "train_loss"}),
    "keras": ("keras", {"accuracy", "val_accuracy", "val_loss", "loss", "train_loss"}),
}
"""Framework: what must be installed, and the metrics of each epoch."""


ENDLESS: Final = 10**6
"""Epochs: more than anybody waits for."""


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_epochs_arrive_and_a_stop_is_heard(tracked, framework):
    """The tracker has each epoch with all metrics at full precision; asked to stop, the program ends with 0."""
    needed, expected = FRAMEWORKS[framework]
    if importlib.util.find_spec(needed) is None:
        pytest.skip(f"{needed} is not installed")
    program, out = PROGRAMS / f"with_{framework}.py", tracked.folder / "out"
    process = tracked.pod().command(str(program), str(ENDLESS), str(out))

    def epochs() -> list[Point]:
        assert process.poll() is None, process.communicate()[1]
        points = [point for point in tracked.curve() if point.epoch is not None]
        return points if len(points) >= 5 else []

    try:
        until(epochs, "five epochs", limit_s=300)
        tracked.stop()
        _, err = process.communicate(timeout=300)
    finally:
        process.kill()
    assert process.returncode == 0, err
    # Lightning validates once more when it is stopped in the middle of an epoch.
    points = [p for p in tracked.curve() if p.epoch is not None and p.epoch.is_integer()]
    assert [point.epoch for point in points] == [1.0 + n for n in range(len(points))]
    for point in points:
        assert expected <= set(point.metrics)
    assert points[-1].metrics["accuracy"] > 0.6
    assert points[-1].metrics["val_loss"] != round(points[-1].metrics["val_loss"], 4)


def test_lightning_is_left_alone_outside_a_trial(pod):
    """Without a trial, Lightning finds no callback of ours and prints no report."""
    if importlib.util.find_spec("pytorch_lightning") is None:
        pytest.skip("pytorch_lightning is not installed")
    one = pod()
    for name in [name for name in one.env if name.startswith("FORETUNE_")]:
        del one.env[name]
    code, out, err = one.run(str(PROGRAMS / "with_lightning.py"), "3")
    assert code == 0, err
    assert "epoch 1:" not in out
    assert "epochs 3" in out
