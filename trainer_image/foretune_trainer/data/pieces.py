"""Texts as the token ids of a pretrained model, which has its own vocabulary of word pieces."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from foretune_trainer.data.words import PAD
from foretune_trainer.errors import BadExtraError, DataUnreachableError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

_PLACE: Final = "workload.extras.pretrained"


class Pieces:
    """The vocabulary that a pretrained model was trained with."""

    def __init__(self, name: str) -> None:
        """Take the folder or the hub's name of a model.

        Raises `DataUnreachableError` when it can't be had now, `BadExtraError` when it is of no use.
        """
        from transformers import AutoTokenizer  # noqa: PLC0415 - takes seconds

        try:
            self._tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=False)
        except OSError as error:
            raise DataUnreachableError(
                f"{_PLACE}: {name}: has no vocabulary here, in the cache or on the hub: "
                f"{str(error).splitlines()[0]}"
            ) from error
        except ValueError as error:
            raise BadExtraError(f"{_PLACE}: {name}: {str(error).splitlines()[0]}") from error
        if self._tokenizer.pad_token_id != PAD:
            raise BadExtraError(f"{_PLACE}: {name}: the id of its padding is not {PAD}")

    @property
    def size(self) -> int:
        """Return the number of ids."""
        return len(self._tokenizer)

    def encode(self, texts: Sequence[str], length: int) -> NDArray[np.int32]:
        """Return `n x m` ids, `m` the longest text's but at most `length`; what is beyond is cut off."""
        found = self._tokenizer(
            list(texts), truncation=True, max_length=length, padding=True, return_tensors="np"
        )
        return np.asarray(found["input_ids"], np.int32)
