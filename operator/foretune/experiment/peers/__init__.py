"""Methods of other projects, each a process of its own environment, since their pins clash.

A peer reads one JSON object a line and answers with one: `start` (space, goal, seed, budget, batch, history),
`ask` (n), `tell` (what was asked, where it was measured, the value or null), `stop`. Each answer tells CPU
seconds so far and memory grown since the start. An answer with `error` ends the run.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from foretune.api.space import render_space
from foretune.errors import InvalidInputError
from foretune.experiment.methods import Ask, Setting

if TYPE_CHECKING:
    from collections.abc import Mapping

    from foretune.domain.space import Params

FOLDER_VARIABLE: Final = "FORETUNE_PEERS"
"""Environment variable with the folder of the peers' environments."""

FOLDER_DEFAULT: Final = "build/peers"
"""Where `scripts/peers.py` makes them, from the root of the checkout."""


@dataclass(frozen=True, kw_only=True)
class Peer:
    """One method of another project."""

    environment: str
    """Name of its environment, and of the file of pins beside this module."""
    module: str
    """Module beside this one with its class `Run`, which must not import foretune."""
    script: str = "speak.py"
    """What speaks for it."""


PEERS: Final[Mapping[str, Peer]] = {
    "optuna-tpe": Peer(environment="optuna", module="optuna_peer"),
    "optuna-gp": Peer(environment="optuna", module="optuna_peer"),
    "zero-shot": Peer(environment="syne-tune", module="syne_tune_peer"),
    "bounding-box": Peer(environment="syne-tune", module="syne_tune_peer"),
    "quantile": Peer(environment="syne-tune", module="syne_tune_peer"),
}
"""Peers by the name of their method."""


class PeerError(RuntimeError):
    """A peer said that something broke, or died."""


class PeerSession:
    """One run of a peer."""

    def __init__(self, name: str, setting: Setting) -> None:
        """Start its process; raises `InvalidInputError` when its environment was not made."""
        peer = PEERS[name]
        self._name = name
        script = Path(__file__).parent / peer.script
        self._process = subprocess.Popen(  # noqa: S603 - our own script, in an environment we made
            [str(interpreter(name)), "-W", "ignore", str(script), peer.module, name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={k: v for k, v in os.environ.items() if k != "PYTHONPATH"},
        )
        self._used: Mapping[str, float] = {"cpu_s": 0.0, "grown_mib": float("nan")}
        try:
            self._say(_start(setting))
        except BaseException:
            self.close()
            raise

    def ask(self, n: int) -> list[Ask]:
        """Return what the peer proposes."""
        configurations = self._say({"do": "ask", "n": n})["configurations"]
        return [
            Ask(params=c["params"], token=str(c["token"]), proposer=self._name)
            for c in configurations
        ]

    def tell(self, ask: Ask, params: Params, value: float | None, cost: float | None) -> None:
        """Tell the peer, with the place where it was measured."""
        self._say(
            {"do": "tell", "token": ask.token, "params": params, "value": value, "cost": cost}
        )

    def cpu_s(self) -> float:
        """Return the peer's CPU seconds so far."""
        return self._used["cpu_s"]

    def grown_mib(self) -> float:
        """Return the peer's growth of memory since it started."""
        return self._used["grown_mib"]

    def close(self) -> None:
        """End the process."""
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        with contextlib.suppress(BrokenPipeError):  # a dead peer does not take what was left to say
            stdin.close()
        stdout.close()
        self._process.wait()

    def _say(self, message: Mapping[str, Any]) -> dict[str, Any]:
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        try:
            stdin.write(json.dumps(message) + "\n")
            stdin.flush()
            line = stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise PeerError(f"{self._name}: its process ended with {self._process.wait()}")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise PeerError(f"{self._name}: {answer['error']}")
        self._used = answer["used"]
        return answer


def _start(setting: Setting) -> dict[str, Any]:
    return {
        "do": "start",
        "space": render_space(setting.space),
        "goal": setting.objective.goal.value,
        "seed": setting.seed,
        "budget": setting.budget,
        "batch": setting.batch,
        "history": [
            [{"params": dict(o.params), "value": o.value} for o in task.observations]
            for task in setting.history
        ],
    }


def interpreter(name: str) -> Path:
    """Return the Python of a peer's environment; raises `InvalidInputError` when it was not made."""
    environment = PEERS[name].environment
    folder = Path(os.environ.get(FOLDER_VARIABLE) or FOLDER_DEFAULT)
    python = folder / environment / "bin" / "python"
    if not python.is_file():
        raise InvalidInputError(
            f"method {name}: there is no {python}; `make peers` makes it, {FOLDER_VARIABLE} says where"
        )
    return python.absolute()
