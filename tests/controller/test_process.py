"""The operator as a process, as far as it needs no cluster."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from tests.support.serving import Serving

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.slow


def test_without_a_cluster_it_ends_with_one_line(tmp_path: Path) -> None:
    """Neither a pod nor a kubeconfig: the line says so, and what to set."""
    settings = {"KUBECONFIG": str(tmp_path / "none"), "HOME": str(tmp_path)}
    with Serving("operator", tmp_path, settings).ended() as operator:
        operator.start(ready=False)
        assert operator.process.wait(60) == 2
        (line,) = operator.text().splitlines()
    assert line.startswith("foretune: no cluster: ")
    assert "set KUBECONFIG" in line


def test_a_setting_that_does_not_fit_ends_it_with_one_line(tmp_path: Path) -> None:
    """The variable is named before anything is started."""
    with Serving("operator", tmp_path, {"FORETUNE_API_BURST": "x"}).ended() as operator:
        operator.start(ready=False)
        assert operator.process.wait(60) == 2
        assert operator.text() == "foretune: FORETUNE_API_BURST: must be a whole number, not 'x'\n"


def test_it_loads_only_what_it_needs() -> None:
    """It stays small: no torch, no numpy, no web server, no database, no second Kubernetes client."""
    code = (
        "import sys, foretune.controller.process\n"
        "print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    heavy = {"torch", "numpy", "scipy", "sqlalchemy", "alembic", "starlette", "uvicorn"}
    assert not {*heavy, "kubernetes_asyncio", "pykube"} & set(run.stdout.split())
