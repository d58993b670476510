"""Real peers on a small table; `make peers` runs it, since it needs their environments.

`make test` does not collect this file: the environments are downloads of their own.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from tests.support.tables import MIXED_SETTING as SETTING
from tests.support.tables import MIXED_TABLE as TABLE

from foretune.experiment.methods import method
from foretune.experiment.replay import tune

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(("protocol", "batch"), [("pool", 1), ("nearest", 4)])
def test_optuna_tpe_finds_what_chance_would_not(
    protocol: str, batch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A real TPE run: every kind of parameter, a table, both protocols."""
    monkeypatch.setenv("FORETUNE_PEERS", str(ROOT / "build" / "peers"))
    setting = dataclasses.replace(SETTING, batch=batch)
    session = method("optuna-tpe")(setting)
    try:
        record = tune(session, TABLE, setting, protocol=protocol)
    finally:
        session.close()
    assert record["regret"][-1] == 0.0
    assert session.cpu_s() > 0
    assert session.grown_mib() >= 0
