"""Peers: processes of their own environment that speak lines of JSON."""

from __future__ import annotations

import dataclasses
import sys
import textwrap
from typing import TYPE_CHECKING

import pytest
from tests.support.tables import MIXED_SETTING as SETTING
from tests.support.tables import MIXED_TABLE as TABLE

from foretune.errors import InvalidInputError
from foretune.experiment import peers
from foretune.experiment.methods import method
from foretune.experiment.replay import tune

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def scripted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A peer called `scripted`, with this Python as its environment; its script is written by the test."""
    bin_folder = tmp_path / "peers" / "here" / "bin"
    bin_folder.mkdir(parents=True)
    (bin_folder / "python").symlink_to(sys.executable)
    script = tmp_path / "script.py"
    peer = peers.Peer(environment="here", module="", script=str(script))
    monkeypatch.setattr(peers, "PEERS", {"scripted": peer})
    monkeypatch.setenv("FORETUNE_PEERS", str(tmp_path / "peers"))
    return script


def test_a_peer_that_breaks_ends_its_run_with_what_it_said(scripted: Path) -> None:
    """An error is told with the peer's name."""
    scripted.write_text(
        "import json\n"
        "for line in __import__('sys').stdin:\n"
        "    print(json.dumps({'error': 'no such sampler'}), flush=True)\n"
    )
    with pytest.raises(peers.PeerError, match="scripted: no such sampler"):
        method("scripted")(SETTING)


def test_a_peer_that_dies_is_told_from_one_that_is_slow(scripted: Path) -> None:
    """Its exit code is in the message."""
    scripted.write_text("raise SystemExit(3)\n")
    with pytest.raises(peers.PeerError, match="scripted: its process ended with 3"):
        method("scripted")(SETTING)


def test_a_peer_gets_space_history_and_outcomes_and_its_own_cpu_counts(scripted: Path) -> None:
    """What it is told is what was measured, where it was measured."""
    scripted.write_text(
        textwrap.dedent(
            """
            import json, sys
            used = {"cpu_s": 0.0, "grown_mib": 7.0}
            for line in sys.stdin:
                said = json.loads(line)
                used["cpu_s"] += 1.5
                answer = {"used": used}
                if said["do"] == "start":
                    assert said["space"]["lr"]["scale"] == "log", said
                    assert said["goal"] == "maximize" and said["batch"] == 2
                if said["do"] == "ask":
                    row = {"lr": 0.5, "layers": 4, "batch": 32, "optimizer": "sgd", "epochs": 5}
                    answer["configurations"] = [{"token": i, "params": row} for i in range(said["n"])]
                if said["do"] == "tell":
                    assert said["params"]["lr"] in (1.0, 0.1), said
                    assert said["value"] == 4.0, said
                print(json.dumps(answer), flush=True)
            """
        )
    )
    setting = dataclasses.replace(SETTING, budget=2, batch=2)
    session = method("scripted")(setting)
    record = tune(session, TABLE, setting, protocol="pool")
    session.close()
    assert record["moved"] == 2
    assert record["cpu_s"] == [0.75, 0.75]
    assert session.grown_mib() == 7.0


def test_a_peer_that_was_not_made_says_how_to_make_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before anything runs."""
    monkeypatch.setenv("FORETUNE_PEERS", str(tmp_path))
    with pytest.raises(
        InvalidInputError, match=r"method optuna-tpe: there is no .*`make peers` makes it"
    ):
        method("optuna-tpe")
