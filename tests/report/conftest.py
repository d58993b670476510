"""Reporters, and a tracker that is the real one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from tests.support.trials import Pod, Tracked, a_pod, tracked_trial

from foretune_report import Reporter

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


@pytest.fixture
def tracked(tmp_path: Path) -> Iterator[Tracked]:
    """A trial that a real tracker holds."""
    with tracked_trial(tmp_path) as found:
        yield found


@pytest.fixture
def reporter_of() -> Iterator[Callable[[Pod], Reporter]]:
    """Make reporters of pods; what they have not sent at the end of the test is let go."""
    made = []

    def make(pod: Pod) -> Reporter:
        made.append(Reporter(pod.env))
        return made[-1]

    yield make
    for one in made:
        if one._sender is not None:
            one._sender.close(0.0)


@pytest.fixture
def pod(tmp_path: Path) -> Any:
    """Return a function that makes a pod of this test."""
    return lambda **changes: a_pod(tmp_path, **changes)
