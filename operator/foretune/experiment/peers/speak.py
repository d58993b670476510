"""Speak for a peer: `python speak.py MODULE METHOD` answers lines of JSON on stdin, one line each.

Run by the Python of the peer's own environment, so it imports the standard library and the module beside it,
whose class `Run` has `ask`, `tell` and is made of a method's name and the first message.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import resource
import sys
from typing import Any


def peak_mib() -> float:
    """Return the peak of resident memory."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


class Speaker:
    """A run, and what it has used."""

    def __init__(self, module: str, method: str) -> None:
        """Speak for a method of a module beside this one."""
        self._make = importlib.import_module(module).Run
        self._method = method
        self._run: Any = None
        self._memory = 0.0

    def answer(self, message: dict[str, Any]) -> dict[str, Any]:
        """Return the answer to one message."""
        found: dict[str, Any] = {}
        if message["do"] == "start":
            self._run = self._make(self._method, message)
            self._memory = peak_mib()
        elif message["do"] == "ask":
            found["configurations"] = self._run.ask(message["n"])
        elif message["do"] == "tell":
            self._run.tell(message["token"], message["params"], message["value"])
        else:
            raise ValueError(f"do: {message['do']!r}")
        own = resource.getrusage(resource.RUSAGE_SELF)
        used = {"cpu_s": own.ru_utime + own.ru_stime, "grown_mib": peak_mib() - self._memory}
        return found | {"used": used}


def main(module: str, method: str) -> None:
    """Answer line by line; what libraries print goes to stderr."""
    out = sys.stdout
    with contextlib.redirect_stdout(sys.stderr):
        speaker = Speaker(module, method)
        for line in sys.stdin:
            try:
                said = speaker.answer(json.loads(line))
            except Exception as error:  # noqa: BLE001 - it is told, and ends the run
                said = {"error": f"{type(error).__name__}: {error}"}
            print(json.dumps(said), file=out, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
