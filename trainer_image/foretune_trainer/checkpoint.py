"""A trial's checkpoints: written whole or not at all, and read only by the trial that wrote them.

The last two are kept, beside a `manifest.json` that says what they are. A file counts once the manifest
names it, and only while its content has the sha256 that stands there: a write that was cut off, a file that
rotted or was changed is passed over for the one before it.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import sys
import time
from collections import Counter
from dataclasses import asdict, dataclass
from typing import IO, TYPE_CHECKING, Any, ClassVar, Final

import torch

from foretune import __version__

if TYPE_CHECKING:
    from pathlib import Path

FORMAT: Final = 2
"""Version of manifest and content; another one is not read."""

MANIFEST: Final = "manifest.json"
"""File in the trial's checkpoint folder that lists the checkpoints, newest first."""

KEPT: Final = 2
"""Checkpoints kept: the newest, and the one before, in case that is damaged."""

SAVE_SHARE: Final = 20.0
"""A checkpoint is due after so many times the seconds that one takes: at most 5 % go into saving."""

STALE_S: Final = 3600.0
"""Age of an unfinished file from which on nobody can be writing it."""

_NAME: Final = re.compile(r"checkpoint-(\d{6,})\.pt")


@dataclass(frozen=True)
class Entry:
    """What the manifest says of one checkpoint."""

    file: str
    sha256: str
    bytes: int
    epoch: int
    """Epochs done."""
    step: int
    """Steps done in the epoch after it."""
    parameters: str
    """Hash of the trial's configuration (`TrialConfig.digest`)."""
    code: str
    """Versions of this project and of PyTorch."""
    written_at: float
    """Unix seconds."""

    @property
    def number(self) -> int:
        """Return its place among all that the trial has written."""
        match = _NAME.fullmatch(self.file)
        assert match is not None
        return int(match[1])

    def __str__(self) -> str:
        return f"epoch {self.epoch}, step {self.step}"


class Checkpoints:
    """The checkpoints of one trial; without a folder nothing is kept."""

    results: ClassVar[Counter[str]] = Counter()
    """All checkpoints of this process by what came of them: `written`, `failed`."""

    def __init__(self, folder: Path | None, digest: str, every_s: float) -> None:
        """Take the trial's folder, the hash of its configuration, and seconds between checkpoints."""
        self._folder = folder
        self._digest = digest
        self._every_s = every_s
        self._cost_s = 0.0
        self._tried_at = time.monotonic()
        self.written = self.failed = 0
        """Checkpoints of this object."""

    @property
    def due(self) -> bool:
        """Whether it is time for another one."""
        waited = time.monotonic() - self._tried_at
        return self._folder is not None and waited >= max(self._every_s, SAVE_SHARE * self._cost_s)

    @property
    def newest(self) -> Entry | None:
        """What the next attempt would go on from, if its file is whole."""
        try:
            return next(iter(self._entries()), None)
        except ValueError:
            return None

    # ---------------------------------------------------------------- write
    def save(self, state: dict[str, Any], *, epoch: int, step: int) -> bool:
        """Write `state` (tensors, numbers, texts, lists, dicts); False when there is no folder.

        Raises `OSError` when the folder can't be written to; what was there before stays.
        """
        if self._folder is None:
            return False
        begin = time.monotonic()
        try:
            self._save(self._folder, state, epoch, step)
        except OSError:
            self.failed += 1
            self.results["failed"] += 1
            raise
        finally:
            # After a failure too: a full disk is not tried at every epoch.
            self._tried_at = time.monotonic()
            self._cost_s = self._tried_at - begin
        self.written += 1
        self.results["written"] += 1
        return True

    def _save(self, folder: Path, state: dict[str, Any], epoch: int, step: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            before = self._entries()
        except ValueError:
            before = []
        number = max((entry.number for entry in before), default=0) + 1
        path = folder / f"checkpoint-{number:06d}.pt"
        temporary = _temporary(path)
        try:
            with temporary.open("wb") as file:
                hashing = _Hashing(file)
                _dump({"format": FORMAT, "state": state}, hashing)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
            new = Entry(
                file=path.name,
                sha256=hashing.sha256,
                bytes=hashing.bytes,
                epoch=epoch,
                step=step,
                parameters=self._digest,
                code=f"foretune {__version__}, torch {torch.__version__}",
                written_at=round(time.time(), 3),
            )
            kept = [new, *before][:KEPT]
            self._write_manifest(folder, kept)
        except BaseException:
            temporary.unlink(missing_ok=True)
            path.unlink(missing_ok=True)  # no manifest names it: it would only take room
            raise
        self._sweep(folder, kept)

    def _write_manifest(self, folder: Path, entries: list[Entry]) -> None:
        path = folder / MANIFEST
        temporary = _temporary(path)
        text = json.dumps({"format": FORMAT, "checkpoints": [asdict(e) for e in entries]}, indent=1)
        try:
            with temporary.open("w", encoding="utf-8") as file:
                file.write(text + "\n")
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
        # Both names are in the folder for good only when the folder itself is.
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def _sweep(self, folder: Path, kept: list[Entry]) -> None:
        """Remove what is no longer kept, and unfinished files of processes that were killed."""
        names = {entry.file for entry in kept}
        for path in folder.iterdir():
            ours = _NAME.fullmatch(path.name) is not None and path.name not in names
            try:
                if ours or (path.suffix == ".tmp" and time.time() - path.stat().st_mtime > STALE_S):
                    path.unlink(missing_ok=True)
            except OSError as error:
                _say(f"{path} can't be removed: {error.strerror}")

    # ----------------------------------------------------------------- read
    def load(self, device: torch.device) -> dict[str, Any] | None:
        """Return the state to go on from: of the newest checkpoint that is whole and of this trial.

        None where there is none. Says, a line each, what was passed over and why.
        """
        try:
            entries = self._entries()
        except ValueError as error:
            _say(f"{error}; starting anew")
            return None
        for place, entry in enumerate(entries):
            found, why = self._read(entry, device)
            if why is None:
                return found
            rest = entries[place + 1 :]
            then = f"trying the one before it, {rest[0]}" if rest else "starting anew"
            assert self._folder is not None
            _say(f"{self._folder / entry.file} ({entry}) {why}; {then}")
        return None

    def _entries(self) -> list[Entry]:
        """Return what the manifest lists; raises `ValueError` when it can't be read."""
        if self._folder is None:
            return []
        path = self._folder / MANIFEST
        try:
            raw = json.loads(path.read_bytes())
            if raw["format"] != FORMAT:
                raise ValueError(f"{path} has another format")
            entries = [Entry(**one) for one in raw["checkpoints"]]
        except FileNotFoundError:
            return []
        except OSError as error:
            raise ValueError(f"{path} can't be read: {error.strerror}") from error
        except (KeyError, TypeError, json.JSONDecodeError, UnicodeDecodeError) as error:
            raise ValueError(f"{path} is damaged: {error}") from error
        if not all(_NAME.fullmatch(str(entry.file)) for entry in entries):
            raise ValueError(f"{path} names files that are no checkpoints")
        return entries

    def _read(self, entry: Entry, device: torch.device) -> tuple[dict[str, Any] | None, str | None]:
        """Return the state of a checkpoint, or None and what is wrong with it."""
        assert self._folder is not None
        if entry.parameters != self._digest:
            return None, "is of another configuration"
        try:
            with (self._folder / entry.file).open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
                if digest != entry.sha256:
                    return None, "is damaged: its sha256 is not the manifest's"
                file.seek(0)
                found = torch.load(file, map_location=device, weights_only=True)
        except OSError as error:
            return None, f"can't be read: {error.strerror}"
        except Exception as error:  # noqa: BLE001 - torch raises whatever a file makes it raise
            return None, f"can't be read: {(str(error) or type(error).__name__).splitlines()[0]}"
        if not isinstance(found, dict) or found.get("format") != FORMAT:
            return None, "has another format"
        return found["state"], None


class _Hashing:
    """A file that is written, and the sha256 of what went into it."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self._sha = file, hashlib.sha256()
        self.bytes = 0
        self.error: OSError | None = None

    @property
    def sha256(self) -> str:
        return self._sha.hexdigest()

    def write(self, data: bytes) -> int:
        if self.error is not None:
            raise self.error
        try:
            self._file.write(data)
        except OSError as error:
            self.error = error
            raise
        self._sha.update(data)
        self.bytes += len(data)
        return len(data)

    def flush(self) -> None:
        self._file.flush()


def _dump(content: dict[str, Any], file: _Hashing) -> None:
    """Write with torch; raises the file's own `OSError`, which torch may wrap in one of its errors."""
    try:
        torch.save(content, file)  # type: ignore[arg-type]
    except RuntimeError:
        if file.error is not None:
            raise file.error from None
        raise


def _temporary(path: Path) -> Path:
    """Return a name for an unfinished file: of this process, since another one's is not ours to touch."""
    return path.with_name(f".{path.name}.{os.getpid()}.tmp")


def _say(text: str) -> None:
    print(f"foretune_trainer: {text}", file=sys.stderr, flush=True)


def random_state(device: torch.device) -> dict[str, Any]:
    """Return the state of PyTorch's generators, the only ones that training uses."""
    cuda = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
    return {"cpu": torch.get_rng_state(), "cuda": cuda}


def restore_random_state(state: dict[str, Any], device: torch.device) -> None:
    """Take what `random_state` returned."""
    torch.set_rng_state(state["cpu"].cpu())
    if device.type == "cuda" and state["cuda"] is not None:
        torch.cuda.set_rng_state(state["cuda"].cpu(), device)
