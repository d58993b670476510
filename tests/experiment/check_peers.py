"""Real peers on a small table; `make peers` runs it, since it needs their environments.

`make test` does not collect this file: the environments are downloads of their own.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from tests.support.tables import MIXED_SETTING as SETTING
from tests.support.tables import MIXED_TABLE as TABLE

from foretune.experiment.histories import sampled
from foretune.experiment.methods import method
from foretune.experiment.peers import PEERS
from foretune.experiment.replay import tune

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("name", sorted(PEERS))
@pytest.mark.parametrize(("protocol", "batch"), [("pool", 1), ("nearest", 4)])
def test_a_peer_finds_what_chance_would_not(
    name: str, protocol: str, batch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A real run: every kind of parameter, a table, both protocols, two past tasks that are like it."""
    monkeypatch.setenv("FORETUNE_PEERS", str(ROOT / "build" / "peers"))
    history = (sampled(TABLE, 50, 1), sampled(TABLE, 40, 2))
    setting = dataclasses.replace(SETTING, batch=batch, history=history)
    session = method(name)(setting)
    try:
        record = tune(session, TABLE, setting, protocol=protocol)
    finally:
        session.close()
    assert record["regret"][-1] == 0.0
    assert session.cpu_s() > 0
    assert session.grown_mib() >= 0


@pytest.mark.parametrize("name", sorted(PEERS))
def test_a_peers_run_can_be_repeated(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same seed gives the same trials."""
    monkeypatch.setenv("FORETUNE_PEERS", str(ROOT / "build" / "peers"))
    setting = dataclasses.replace(SETTING, budget=12, history=(sampled(TABLE, 50, 1),) * 2)
    tried = []
    for _ in range(2):
        session = method(name)(setting)
        tried.append(tune(session, TABLE, setting, protocol="pool")["tried"])
        session.close()
    assert tried[0] == tried[1]
