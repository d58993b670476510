"""Copies of data sets as arrays, which start a trial without reading, decoding or splitting anything.

`foretune data warm` writes them into a cache that pods share; a trial reads the one of its data set, if it is
there. A copy serves every configuration: images are pixels, texts are the ids of all their words, from which
any vocabulary and length follow. It is read without running code, and only when its sha256 is right.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from foretune import contract
from foretune_trainer.data import words
from foretune_trainer.data.tables import NO_IMAGES, Table

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

FORMAT: Final = 1
"""Version of a copy's content and of how texts are split into words; another one is not read."""

ENV_CACHE: Final = "FORETUNE_CACHE_DIR"
"""Variable with the folder of the cache; without it the pod's own."""

FOLDER: Final = "tensors"
"""Folder within the cache."""


@dataclass(frozen=True)
class Copy:
    """A data set as it was read, and its fingerprint."""

    train: Table
    test: Table
    fingerprint: str


def cache(environ: Mapping[str, str] = os.environ) -> Path:
    """Return the folder of the cache, which need not exist."""
    return Path(environ.get(ENV_CACHE) or contract.CACHE_DIR)


def source_of(dataset: str, hub: str, path: str | None) -> str:
    """Return what says whether a copy is of this data: the hub's name, or a hash of a folder's files."""
    digest = hashlib.sha256(f"{FORMAT}\n{dataset}\n".encode())
    if path is None:
        digest.update(f"hub:{hub}".encode())
    else:
        for file in sorted(one for one in Path(path).rglob("*") if one.is_file()):
            digest.update(f"{file.relative_to(path)}\0".encode())
            with file.open("rb") as content:
                digest.update(hashlib.file_digest(content, "sha256").digest())
    return digest.hexdigest()


def place(folder: Path, dataset: str, source: str) -> Path:
    """Return where the manifest of a copy is; the arrays lie beside it."""
    return folder / FOLDER / f"{dataset}-{source[:16]}.json"


def find(folder: Path, dataset: str, source: str) -> Copy | None:
    """Return a copy; None where there is none, and, saying why, where it is damaged."""
    manifest = place(folder, dataset, source)
    if not manifest.is_file():
        return None
    try:
        facts = json.loads(manifest.read_bytes())
        if facts["format"] != FORMAT or facts["source"] != source:
            raise ValueError("is of other data")
        # In one go: what was hashed is what is read.
        content = manifest.with_suffix(".safetensors").read_bytes()
        if hashlib.sha256(content).hexdigest() != facts["sha256"]:
            raise ValueError("is damaged: its sha256 is another one")
        from safetensors.numpy import load  # noqa: PLC0415 - only for copies

        arrays = load(content)
        train, test = (_table(arrays, part) for part in ("train", "test"))
        return Copy(train, test, str(facts["fingerprint"]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        text = f"foretune_trainer: the copy {manifest} {error}; the data set is read instead"
        print(text, file=sys.stderr, flush=True)
        return None


def write(folder: Path, dataset: str, source: str, copy: Copy) -> Path:
    """Write a copy, whole or not at all, and return its manifest. Raises `OSError`."""
    from safetensors.numpy import save  # noqa: PLC0415 - only for copies

    manifest = place(folder, dataset, source)
    manifest.parent.mkdir(parents=True, exist_ok=True)
    content = save(_arrays(copy.train, copy.test))
    facts = {
        "format": FORMAT,
        "dataset": dataset,
        "source": source,
        "fingerprint": copy.fingerprint,
        "sha256": hashlib.sha256(content).hexdigest(),
        "bytes": len(content),
        "train": len(copy.train.labels),
        "test": len(copy.test.labels),
    }
    # The manifest comes last: without it there is no copy.
    for path, body in (
        (manifest.with_suffix(".safetensors"), content),
        (manifest, json.dumps(facts, indent=1).encode()),
    ):
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            with temporary.open("wb") as file:
                file.write(body)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    return manifest


def _arrays(*tables: Table) -> dict[str, NDArray[Any]]:
    """Return the arrays of train and test by name."""
    found: dict[str, NDArray[Any]] = {}
    names = ("train", "test")
    for name, table in zip(names, tables, strict=True):
        found[f"{name}.labels"] = table.labels
        if table.kind == "image":
            found[f"{name}.images"] = np.ascontiguousarray(table.images)
    if tables[0].kind == "image":
        return found
    split = [[words.words(text) for text in table.texts] for table in tables]
    # In the order of the alphabet, as a vocabulary has words that are equally frequent.
    known = sorted({word for texts in split for text in texts for word in text})
    ids = {word: number for number, word in enumerate(known)}
    found["words"] = _bytes("\n".join(known))
    for name, table, texts in zip(names, tables, split, strict=True):
        found[f"{name}.ids"] = np.asarray([ids[word] for text in texts for word in text], np.int32)
        found[f"{name}.ends"] = np.cumsum([len(text) for text in texts], dtype=np.int64)
        raw = [text.encode("utf-8", "surrogatepass") for text in table.texts]
        found[f"{name}.texts"] = np.frombuffer(b"".join(raw), np.uint8)
        found[f"{name}.text_ends"] = np.cumsum([len(one) for one in raw], dtype=np.int64)
    return found


def _table(arrays: Mapping[str, NDArray[Any]], part: str) -> Table:
    labels = arrays[f"{part}.labels"]
    if f"{part}.images" in arrays:
        return Table(labels, arrays[f"{part}.images"])
    known = _text(arrays["words"].tobytes()).split("\n")
    texts = words.Texts(arrays[f"{part}.texts"], arrays[f"{part}.text_ends"])
    cut = words.Cut(arrays[f"{part}.ids"], arrays[f"{part}.ends"], known)
    return Table(labels, NO_IMAGES, texts, cut)


def _bytes(text: str) -> NDArray[np.uint8]:
    return np.frombuffer(text.encode("utf-8", "surrogatepass"), np.uint8)


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "surrogatepass")
