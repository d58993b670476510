"""Fixtures of the Kubernetes adapter's tests."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from tests.kube.server import Server, running

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def server() -> Iterator[Server]:
    """An API server that answers as the test says."""
    with running() as started:
        yield started
