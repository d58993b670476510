"""Which data sets there are, and how each becomes arrays."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from foretune_trainer.config import SYNTHETIC
from foretune_trainer.data import copies, pieces, synthetic, tables, words
from foretune_trainer.errors import BadConfigError

if TYPE_CHECKING:
    from collections.abc import Callable

    from foretune_trainer.config import TrialConfig
    from foretune_trainer.data.tables import Table

SPLIT_SEED: Final = 0
"""Seed of the split into train and validation: the same for every trial, whatever its own seed."""

DIGITS: Final = Path(__file__).with_name("digits.parquet")
"""The data set that ships with the trainer; see digits.md beside it."""


@dataclass(frozen=True)
class Source:
    """Where a public data set is found."""

    hub: str
    """Name on the Hugging Face hub."""
    column: str
    """`image` or `text`: what the examples are."""
    tests: tuple[str, ...]
    """Splits with public labels that may serve as the test split, best first."""
    shape: tuple[int, int, int] | None = None
    """Channels, height and width of images stored as raw bytes."""


SOURCES: Final = {
    "mnist": Source("ylecun/mnist", "image", ("test", "validation"), (1, 28, 28)),
    "cifar10": Source("uoft-cs/cifar10", "image", ("test", "validation")),
    "imdb": Source("stanfordnlp/imdb", "text", ("test", "validation")),
    "ag_news": Source("fancyzhx/ag_news", "text", ("test", "validation")),
    # The hub's test labels of SST-2 are hidden (-1).
    "sst2": Source("stanfordnlp/sst2", "text", ("validation", "test")),
}


@dataclass(frozen=True)
class Part:
    """One split: `inputs` are `n x c x h x w` uint8 pixels or `n x length` int32 tokens."""

    inputs: NDArray[np.generic]
    labels: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, index: NDArray[np.int64]) -> Part:
        """Return the examples at these positions."""
        return Part(self.inputs[index], self.labels[index])


@dataclass(frozen=True)
class Dataset:
    """A data set, split."""

    kind: str
    """`image` or `text`."""
    classes: int
    train: Part
    valid: Part
    test: Part
    fingerprint: str
    """sha256 of what was read, before splitting: another one is another data set."""
    mean: float = 0.0
    deviation: float = 1.0
    """Of the training pixels."""
    vocabulary: int = 0
    """Number of token ids of a text."""


def load(config: TrialConfig) -> Dataset:
    """Return the data set of a trial.

    Raises `DataUnreachableError` when it can't be read now, `BadConfigError` when it never can.
    """
    found = _copy(config)
    if found is None:
        train, test = _read(config)
        _check(train, config)
        _check(test, config)
        found = copies.Copy(train, test, fingerprint(train, test))
    train, test, digest = found.train, found.test, found.fingerprint
    classes = int(max(train.labels.max(), test.labels.max())) + 1
    train = train.first(config["max_samples"])
    kept, held = split(train.labels, float(config["valid_fraction"]))
    shown: Callable[[Table], NDArray[np.generic]]
    length = int(config["max_length"])
    if train.kind == "image":
        shown, vocabulary = _pixels, 0
    elif config["pretrained"]:
        own = pieces.Pieces(config["pretrained"])
        shown, vocabulary = (lambda table: own.encode(table.texts, length)), own.size
    else:
        book = _vocabulary(train, kept, int(config["vocabulary"]))
        shown, vocabulary = (lambda table: _ids(table, book, length)), book.size
    whole = Part(shown(train), train.labels)
    fit = whole.take(kept)
    pixels = train.kind == "image"
    return Dataset(
        kind=train.kind,
        classes=classes,
        train=fit,
        valid=whole.take(held),
        test=Part(shown(test), test.labels),
        fingerprint=digest,
        mean=float(fit.inputs.mean()) if pixels else 0.0,
        deviation=max(float(fit.inputs.std()), 1e-6) if pixels else 1.0,
        vocabulary=vocabulary,
    )


def _pixels(table: Table) -> NDArray[np.generic]:
    return table.images


def _vocabulary(train: Table, kept: NDArray[np.int64], size: int) -> words.Vocabulary:
    if train.cut is not None:
        return train.cut.vocabulary(kept.tolist(), size)
    return words.Vocabulary.of([train.texts[i] for i in kept], size)


def _ids(table: Table, book: words.Vocabulary, length: int) -> NDArray[np.generic]:
    if table.cut is not None:
        return table.cut.encode(book, length)
    return book.encode(table.texts, length)


def _copy(config: TrialConfig) -> copies.Copy | None:
    """Return the copy of a data set in the cache, if there is a cache and it has one."""
    folder = copies.cache()
    if config.dataset not in SOURCES or not (folder / copies.FOLDER).is_dir():
        return None
    if config.path is not None and not Path(config.path).is_dir():
        return None  # reading it says what is wrong
    source = copies.source_of(config.dataset, SOURCES[config.dataset].hub, config.path)
    return copies.find(folder, config.dataset, source)


def warm(config: TrialConfig, folder: Path) -> tuple[Path, bool]:
    """Write a copy of a data set into a cache, unless it is there; return its manifest, and whether it was.

    Raises as `load` does, and `OSError` where the cache can't be written to.
    """
    if config.dataset not in SOURCES:
        raise BadConfigError(
            f"workload.dataset: {config.dataset} ships with the trainer or is made"
        )
    hub = SOURCES[config.dataset].hub
    if config.path is not None and not Path(config.path).is_dir():
        _read(config)  # says what is wrong
    source = copies.source_of(config.dataset, hub, config.path)
    if copies.find(folder, config.dataset, source) is not None:
        return copies.place(folder, config.dataset, source), True
    train, test = _read(config)
    _check(train, config)
    _check(test, config)
    copy = copies.Copy(train, test, fingerprint(train, test))
    return copies.write(folder, config.dataset, source, copy), False


def _read(config: TrialConfig) -> tuple[Table, Table]:
    """Return the training and the test table."""
    name = config.dataset
    if (match := SYNTHETIC.fullmatch(name)) is not None:
        return synthetic.make(match[1], int(match[2]), int(match[3]))
    if name == "digits":
        return tables.with_splits(DIGITS, (1, 8, 8))
    source = SOURCES[name]
    if config.path is not None:
        return tables.from_folder(Path(config.path), source.column, source.tests, source.shape)
    return tables.from_library(source.hub, source.column, source.tests, source.shape)


def _check(table: Table, config: TrialConfig) -> None:
    if not len(table.labels):
        raise BadConfigError(f"workload.dataset: {config.dataset} has no examples")
    if table.labels.min() < 0:
        raise BadConfigError(f"workload.dataset: {config.dataset} has hidden labels (-1)")


def split(
    labels: NDArray[np.int64], fraction: float
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the positions that train and those held out: `fraction` of each class, at least one.

    Raises `BadConfigError` where a class has a single example.
    """
    # The legacy generator, since numpy promises that its numbers never change.
    order = np.random.RandomState(SPLIT_SEED).permutation(len(labels))
    held = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        of_class = order[labels[order] == label]
        if len(of_class) < 2:  # noqa: PLR2004
            raise BadConfigError(
                f"workload.dataset: class {label} has one example, so that none can be held out"
            )
        held[of_class[: max(1, round(fraction * len(of_class)))]] = True
    return np.flatnonzero(~held), np.flatnonzero(held)


def fingerprint(*parts: Table) -> str:
    """Return a hash of all examples and labels."""
    digest = hashlib.sha256()
    for table in parts:
        if table.kind == "image":
            digest.update(str(table.images.shape).encode())
            digest.update(np.ascontiguousarray(table.images).tobytes())
        else:
            digest.update("\0".join(table.texts).encode())
        digest.update(table.labels.tobytes())
    return f"sha256:{digest.hexdigest()}"
