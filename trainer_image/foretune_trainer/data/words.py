"""Texts as rows of token ids: whole words of the training texts, most frequent first."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

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
