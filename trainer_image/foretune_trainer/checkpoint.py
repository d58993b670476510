"""A trial's checkpoint: written whole or not at all, and read only by the trial that wrote it."""

from __future__ import annotations

import os
import sys
import time
from typing import TYPE_CHECKING, Any, Final

import torch

if TYPE_CHECKING:
    from pathlib import Path

FORMAT: Final = 1
"""Version of a checkpoint's content; another one is not read."""

NAME: Final = "checkpoint.pt"
"""File in the trial's checkpoint folder."""

SAVE_SHARE: Final = 20.0
"""A checkpoint is due after so many times the seconds that one takes: at most 5 % go into saving."""


class Checkpoints:
    """The checkpoint of one trial; without a folder nothing is kept."""

    def __init__(self, folder: Path | None, digest: str, every_s: float) -> None:
        """Take the trial's folder, the hash of its configuration, and seconds between checkpoints."""
        self._path = folder / NAME if folder is not None else None
        self._digest = digest
        self._every_s = every_s
        self._cost_s = 0.0
        self._saved_at = time.monotonic()

    @property
    def due(self) -> bool:
        """Whether it is time for another one."""
        waited = time.monotonic() - self._saved_at
        return self._path is not None and waited >= max(self._every_s, SAVE_SHARE * self._cost_s)

    def save(self, state: dict[str, Any]) -> bool:
        """Write `state` (tensors, numbers, texts, lists, dicts); False when there is no folder.

        Raises `OSError` when the folder can't be written to.
        """
        if self._path is None:
            return False
        begin = time.monotonic()
        self._path.parent.mkdir(parents=True, exist_ok=True)
        # Named after the process: another attempt's unfinished file is not ours to touch.
        temporary = self._path.with_suffix(f".{os.getpid()}.tmp")
        try:
            with temporary.open("wb") as file:
                torch.save({"format": FORMAT, "digest": self._digest, "state": state}, file)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(self._path)
        finally:
            temporary.unlink(missing_ok=True)
        self._saved_at = time.monotonic()
        self._cost_s = self._saved_at - begin
        return True

    def load(self, device: torch.device) -> dict[str, Any] | None:
        """Return the state to go on from; None, saying why, where there is none that fits."""
        if self._path is None or not self._path.exists():
            return None
        why: str | None
        try:
            found = torch.load(self._path, map_location=device, weights_only=True)
        except Exception as error:  # noqa: BLE001 - torch raises whatever a damaged file makes it raise
            found, why = None, f"can't be read: {error}"
        else:
            why = self._unfit(found)
        if why is not None:
            text = f"foretune_trainer: {self._path} {why}; starting anew"
            print(text, file=sys.stderr, flush=True)
            return None
        state: dict[str, Any] = found["state"]
        return state

    def _unfit(self, found: object) -> str | None:
        """Return why a checkpoint is not this trial's, or None."""
        if not isinstance(found, dict) or found.get("format") != FORMAT:
            return "has another format"
        return None if found["digest"] == self._digest else "is of another configuration"


def random_state(device: torch.device) -> dict[str, Any]:
    """Return the state of PyTorch's generators, the only ones that training uses."""
    cuda = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
    return {"cpu": torch.get_rng_state(), "cuda": cuda}


def restore_random_state(state: dict[str, Any], device: torch.device) -> None:
    """Take what `random_state` returned."""
    torch.set_rng_state(state["cpu"].cpu())
    if device.type == "cuda" and state["cuda"] is not None:
        torch.cuda.set_rng_state(state["cuda"].cpu(), device)
