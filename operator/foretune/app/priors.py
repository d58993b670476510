"""The priors of one history: a folder beside it, in which one of them is the champion.

```
<history>.priors/
    lock                     held while the folder changes
    champion                 the id of the prior in use
    <id>/prior.json  prior.safetensors  note.json
```
A prior is written under another name and renamed, so that whatever is there is whole: a process killed at
any moment leaves the champion as it was.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import shutil
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from foretune.app.artefact import Prior, read, read_files, unpacked
from foretune.errors import ConflictError, InvalidInputError, NotFoundError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

NOTE: Final = "note.json"
CHAMPION: Final = "champion"

KEPT: Final = 10
"""Priors kept besides the champion: the newest."""

ID: Final = re.compile(r"[0-9a-f]{12}")
ID_PART: Final = re.compile(r"[0-9a-f]{4,12}")


@dataclass(frozen=True)
class Entry:
    """One prior of the folder."""

    id: str
    state: str
    """`champion`, `retired` (it was), `challenger` (it never was), `broken` (it can't be read)."""
    made_at: float
    """Unix seconds at which it came here."""
    note: str
    """Why it was promoted or not, or what is wrong with it."""
    prior: Prior | None
    """None where it is broken."""
    foreign: bool = False
    """Whether it was imported."""


class PriorStore:
    """A folder of priors; safe for processes that use it at once."""

    def __init__(self, folder: Path) -> None:
        """Take the folder, which is made when something is kept in it."""
        self.folder: Final = folder

    @classmethod
    def beside(cls, history: Path) -> PriorStore:
        """Return the store of a history database."""
        return cls(history.with_name(f"{history.name}.priors"))

    def entries(self) -> Sequence[Entry]:
        """Return every prior, newest first."""
        champion = self.champion_id()
        found = [self._entry(folder, champion) for folder in self._folders()]
        return sorted(found, key=lambda entry: (-entry.made_at, entry.id))

    def champion_id(self) -> str | None:
        """Return the id of the prior in use, or None."""
        try:
            text = (self.folder / CHAMPION).read_text(encoding="ascii").strip()
        except (OSError, UnicodeDecodeError):
            return None
        return text if ID.fullmatch(text) else None

    def champion(self) -> Prior | None:
        """Return the prior in use, or None; raises `InvalidInputError` when it was changed on disk."""
        found = self.champion_id()
        return None if found is None else self._checked(found)

    def get(self, text: str) -> Prior:
        """Return the prior whose id starts with `text` (four digits or more), or the `champion`.

        Raises `NotFoundError`, and `InvalidInputError` for one that was changed on disk.
        """
        return self._checked(self._id(text))

    def add(
        self, files: Mapping[str, bytes], *, note: str, promote: bool, foreign: bool = False
    ) -> Prior:
        """Keep a prior, check it as it will be read, and use it if `promote`; the same bytes are one prior."""
        prior = unpacked(files, "the new prior")
        with self._locked():
            target = self.folder / prior.id
            if not target.exists():
                with tempfile.TemporaryDirectory(dir=self.folder, prefix=".new-") as name:
                    new = Path(name) / "prior"
                    new.mkdir()
                    for file, content in files.items():
                        _write(new / file, content)
                    _write(new / NOTE, _note(note, was_champion=False, foreign=foreign))
                    new.rename(target)
            if promote:
                self._promote(prior.id, note)
            self._prune()
        return prior

    def promote(self, text: str) -> Prior:
        """Use the prior of that id, whatever its figures; raises as `get`."""
        prior = self.get(text)
        with self._locked():
            self._promote(prior.id, "promoted by hand")
        return prior

    def export(self, text: str, to: Path) -> Prior:
        """Copy a prior's two files into a folder, which must be empty or not exist."""
        found = self._id(text)
        self._checked(found)
        return exported(self.folder / found, to)

    def receive(self, folder: Path) -> Prior:
        """Take in the prior of a folder, from wherever it comes; it is not used until it is promoted."""
        return self.add(
            read_files(folder), note=f"imported from {folder.name}", promote=False, foreign=True
        )

    # --------------------------------------------------------------------- inside
    def _folders(self) -> list[Path]:
        if not self.folder.is_dir():
            return []
        return [path for path in self.folder.iterdir() if ID.fullmatch(path.name)]

    def _id(self, text: str) -> str:
        if text == CHAMPION:
            found = self.champion_id()
            if found is None:
                raise NotFoundError(f"prior: {self.folder} has no champion")
            return found
        names = sorted(path.name for path in self._folders())
        matching = [n for n in names if ID_PART.fullmatch(text) and n.startswith(text)]
        if len(matching) == 1:
            return matching[0]
        what = "several priors begin with" if matching else "there is no prior"
        held = f"; it holds {', '.join(names)}" if names else ", which holds none"
        raise NotFoundError(f"prior: {what} {text!r} in {self.folder}{held}")

    def _checked(self, found: str) -> Prior:
        prior = read(self.folder / found)
        if prior.id != found:
            raise InvalidInputError(f"prior: {self.folder / found} was changed: it is {prior.id}")
        return prior

    def _entry(self, folder: Path, champion: str | None) -> Entry:
        told: dict[str, Any] = {}
        with contextlib.suppress(OSError, ValueError):
            told = json.loads((folder / NOTE).read_text(encoding="utf-8"))
        made_at = float(told.get("made_at", 0.0))
        note = str(told.get("note", ""))
        try:
            prior = self._checked(folder.name)
        except InvalidInputError as error:
            return Entry(folder.name, "broken", made_at, str(error), None)
        state = "retired" if told.get("was_champion") else "challenger"
        if folder.name == champion:
            state = CHAMPION
        return Entry(folder.name, state, made_at, note, prior, bool(told.get("foreign")))

    def _promote(self, found: str, note: str) -> None:
        entry = self._entry(self.folder / found, None)
        told = _note(note, was_champion=True, foreign=entry.foreign, made_at=entry.made_at)
        _replace(self.folder / found / NOTE, told)
        _replace(self.folder / CHAMPION, f"{found}\n".encode())

    def _prune(self) -> None:
        spare = [entry for entry in self.entries() if entry.state != CHAMPION]
        for entry in spare[KEPT:]:
            shutil.rmtree(self.folder / entry.id, ignore_errors=True)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            fd = os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise InvalidInputError(f"{self.folder}: can't be written: {error.strerror}") from None
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            yield
        except OSError as error:
            raise InvalidInputError(f"{self.folder}: can't be written: {error.strerror}") from None
        finally:
            os.close(fd)


def exported(folder: Path, to: Path) -> Prior:
    """Copy the two files of a prior into a folder, which must be empty or not exist."""
    files = read_files(folder)
    prior = unpacked(files, str(folder))
    try:
        to.mkdir(parents=True, exist_ok=True)
        if any(to.iterdir()):
            raise ConflictError(f"{to}: is not empty")
        for name, content in files.items():
            _write(to / name, content)
    except OSError as error:
        raise InvalidInputError(f"{to}: can't be written: {error.strerror}") from None
    return prior


def _note(text: str, *, was_champion: bool, foreign: bool, made_at: float | None = None) -> bytes:
    told = {
        "note": text,
        "made_at": time.time() if made_at is None else made_at,
        "was_champion": was_champion,
        "foreign": foreign,
    }
    return json.dumps(told).encode()


def _write(path: Path, content: bytes) -> None:
    with path.open("xb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _replace(path: Path, content: bytes) -> None:
    new = path.with_name(f".{path.name}.new")
    new.unlink(missing_ok=True)
    _write(new, content)
    new.replace(path)


__all__ = ["Entry", "PriorStore", "exported"]
