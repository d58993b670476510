"""Metrics in foreign logs: the shapes that frameworks print."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foretune.contract import report_line
from foretune.domain.logs import parse_line, parse_log, parse_termination, undelivered

SHAPES = [
    ("Epoch 3/10", 3.0, {}),
    (
        "{'eval_accuracy': '0.9134', 'epoch': 2.0}",
        2.0,
        {"eval_accuracy": 0.9134, "accuracy": 0.9134},
    ),
    (
        "{'eval_loss': 0.25, 'eval_runtime': 1.5, 'eval_steps_per_second': 3, 'epoch': 1.5}",
        1.5,
        {"eval_loss": 0.25, "val_loss": 0.25},
    ),
    (
        "{'loss': '0.69', 'learning_rate': '1e-05', 'epoch': '0.5'}",
        0.5,
        {"loss": 0.69, "learning_rate": 1e-05},
    ),
    ("train_runtime: 12.1 train_loss: 0.5", None, {"train_loss": 0.5}),
    ('{"accuracy": 0.5, "epoch": 1}', 1.0, {"accuracy": 0.5}),
    ("accuracy=0.91 loss: 1e-3", None, {"accuracy": 0.91, "loss": 0.001}),
    ("45/45 - 1s - loss: 0.3 - val_accuracy: 0.36", None, {"loss": 0.3, "val_accuracy": 0.36}),
    ("[12]\tvalidation-auc:0.91", 12.0, {"validation-auc": 0.91}),
    ("[LightGBM] [5]\tvalid_0's auc: 0.9", None, {"auc": 0.9}),
    ("acc: 91.3%", None, {"acc": pytest.approx(0.913)}),
    ("\x1b[32mval_loss\x1b[0m = 0.25", None, {"val_loss": 0.25}),
    ("10%|#   |\rloss: 0.5", None, {"loss": 0.5}),
    ("Accuracy: 9911/10000 (99%)", None, {}),
    ("2026-01-01 12:30:45 INFO loss=0.2", None, {"loss": 0.2}),
    ("nothing to see", None, {}),
]


@pytest.mark.parametrize(("line", "epoch", "metrics"), SHAPES, ids=[s[0] for s in SHAPES])
def test_shapes_of_lines(line, epoch, metrics):
    """Each framework's line gives its epoch and its metrics."""
    assert parse_line(line) == (epoch, metrics)


def test_not_finite_values_are_named():
    """NaN is kept apart: it is not JSON, and it means divergence."""
    report = parse_log("epoch 1 val_loss: nan accuracy: 0.5")[0]
    assert report["metrics"] == {"accuracy": 0.5}
    assert report["nonfinite"] == ["val_loss"]


def test_the_last_value_of_an_epoch_counts():
    """Lines behind an epoch's line belong to it; a later value replaces an earlier one."""
    reports = parse_log("Epoch 1/2\nloss: 3\nloss: 2\nEpoch 2/2\nloss: 1\n")
    assert [(r["epoch"], r["metrics"]) for r in reports] == [(1.0, {"loss": 2}), (2.0, {"loss": 1})]


def test_marked_lines_win():
    """A log with reports of the contract is read by them alone."""
    record = {"v": 1, "seq": 0, "epoch": 1, "metrics": {"accuracy": 0.75}}
    assert parse_log(f"accuracy: 0.1\n{report_line(record)}\n") == [record]


@given(st.text(max_size=300))
def test_no_text_breaks_it(text):
    """Any text gives reports with finite metrics, or none."""
    for report in parse_log(text):
        assert all(math.isfinite(v) for v in report["metrics"].values())
    assert isinstance(parse_termination(text), list)


def test_a_termination_message_gives_its_points():
    """The best and the last point of the summary become reports."""
    message = json.dumps(
        {"v": 1, "reason": "done", "epochs": 3,
         "best": {"epoch": 2, "metrics": {"accuracy": 0.9}}, "last": {"epoch": 3, "metrics": {"accuracy": 0.8}}}
    )  # fmt: skip
    assert [(r["epoch"], r["metrics"]["accuracy"]) for r in parse_termination(message)] == [
        (2, 0.9),
        (3, 0.8),
    ]


@pytest.mark.parametrize(
    ("message", "count"),
    [
        ('{"v": 1, "dropped": 3}', 3),
        ('{"v": 1, "dropped": 0}', 0),
        ('{"v": 1}', 0),
        ('{"v": 1, "dropped": "many"}', 0),
        ("[1]", 0),
        ("Traceback (most recent call last):", 0),
        ("", 0),
    ],
)
def test_undelivered(message, count):
    """The termination message tells how many reports did not arrive; no other text does."""
    assert undelivered(message) == count
