"""Texts as rows of token ids: whole words of the training texts, most frequent first."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Final, overload

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from collections.abc import Iterable

PAD, UNKNOWN, START = 0, 1, 2
"""Ids of what is no word; a row begins with START, so that none is empty."""

FIRST_WORD: Final = 3

_WORD: Final = re.compile(r"\w+|[^\w\s]")


def words(text: str, limit: int | None = None) -> list[str]:
    """Return words and signs, lower-cased; the first `limit` of them."""
    return [match[0] for match in islice(_WORD.finditer(text.lower()), limit)]


@dataclass(frozen=True)
class Vocabulary:
    """The words that have an id."""

    ids: Mapping[str, int]

    @classmethod
    def of(cls, texts: Sequence[str], size: int) -> Vocabulary:
        """Return the vocabulary of `texts` with at most `size` ids; ties go by the alphabet."""
        counts = Counter(word for text in texts for word in words(text))
        ranked = sorted(counts, key=lambda word: (-counts[word], word))[: size - FIRST_WORD]
        return cls({word: FIRST_WORD + rank for rank, word in enumerate(ranked)})

    @property
    def size(self) -> int:
        """Return the number of ids."""
        return FIRST_WORD + len(self.ids)

    def encode(self, texts: Sequence[str], length: int) -> NDArray[np.int32]:
        """Return `n x m` ids, `m` the longest text's but at most `length`; what is beyond is cut off."""
        rows = [
            [START, *(self.ids.get(word, UNKNOWN) for word in words(text, length - 1))]
            for text in texts
        ]
        found = np.full((len(rows), max(map(len, rows), default=1)), PAD, np.int32)
        for row, ids in zip(found, rows, strict=True):
            row[: len(ids)] = ids
        return found


class Texts(Sequence[str]):
    """Texts that are one row of bytes until somebody asks for one."""

    def __init__(self, raw: NDArray[np.uint8], ends: NDArray[np.int64]) -> None:
        """Take all bytes (UTF-8), and where each text ends in them."""
        self._raw, self._ends = raw, ends

    def __len__(self) -> int:
        return len(self._ends)

    @overload
    def __getitem__(self, at: int) -> str: ...
    @overload
    def __getitem__(self, at: slice) -> Texts | list[str]: ...
    def __getitem__(self, at: int | slice) -> str | Texts | list[str]:
        """Return one text; the first ones stay bytes."""
        if isinstance(at, slice):
            if at.start is None and at.step is None and (at.stop is None or at.stop >= 0):
                return Texts(self._raw, self._ends[at])
            return [self[i] for i in range(*at.indices(len(self)))]
        number = range(len(self))[at]
        start = self._ends[number - 1] if number else 0
        return self._raw[start : self._ends[number]].tobytes().decode("utf-8", "surrogatepass")


@dataclass(frozen=True)
class Cut:
    """Texts that were split into words before: a vocabulary and its ids without looking at a text."""

    ids: NDArray[np.int32]
    """The words of all texts, one after the other, as positions in `known`."""
    ends: NDArray[np.int64]
    """Where each text ends in `ids`."""
    known: Sequence[str]
    """All words, in the order of the alphabet."""

    def first(self, limit: int | None) -> Cut:
        """Return the first `limit` texts, or all."""
        return Cut(self.ids, self.ends[:limit], self.known)

    def vocabulary(self, rows: Iterable[int], size: int) -> Vocabulary:
        """Return what `Vocabulary.of` returns for the texts at `rows`."""
        return Vocabulary(
            {
                self.known[one]: FIRST_WORD + rank
                for rank, one in enumerate(self._ranked(rows, size))
            }
        )

    def encode(self, book: Vocabulary, length: int) -> NDArray[np.int32]:
        """Return what `book.encode` returns for all texts."""
        to = np.full(len(self.known), UNKNOWN, np.int32)
        place = {word: number for number, word in enumerate(self.known)}
        for word, number in book.ids.items():
            if word in place:
                to[place[word]] = number
        starts = np.concatenate([[0], self.ends[:-1]]) if len(self.ends) else self.ends
        kept = np.minimum(self.ends - starts, length - 1)
        found = np.full((len(kept), 1 + int(kept.max(initial=0))), PAD, np.int32)
        found[:, 0] = START
        for row, start, count in zip(found, starts.tolist(), kept.tolist(), strict=True):
            row[1 : 1 + count] = to[self.ids[start : start + count]]
        return found

    def _ranked(self, rows: Iterable[int], size: int) -> list[int]:
        there = np.zeros(len(self.ends), bool)
        there[np.asarray(rows, np.int64)] = True
        lengths = np.diff(self.ends, prepend=0)
        taken = self.ids[: int(self.ends[-1]) if len(self.ends) else 0][np.repeat(there, lengths)]
        counts = np.bincount(taken, minlength=len(self.known))
        order = np.argsort(-counts, kind="stable")[: max(0, size - FIRST_WORD)]
        return [int(one) for one in order if counts[one]]
