"""LSTM layers over the words of a text or the rows of an image."""

from __future__ import annotations

import warnings
from contextlib import nullcontext
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from foretune_trainer.models.transformer import mean_over

if TYPE_CHECKING:
    from collections.abc import Sequence


# The optimiser keeps all weights in one vector, where cuDNN does not look for those of one layer: it puts a
# copy of them together for each call, which is little beside the layer's own work.
warnings.filterwarnings("ignore", message="RNN module weights are not part of single contiguous")


class Rows(nn.Module):
    """The rows of an image, one after the other, each with all its channels."""

    def __init__(self, shape: Sequence[int]) -> None:
        """Take the images' `c, h, w`."""
        super().__init__()
        channels, _, wide = shape
        self.width = channels * wide

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Return `n x h x (c * w)` vectors and `n x h` booleans, all true."""
        rows = pixels.transpose(1, 2).flatten(2)
        return rows, torch.ones(rows.shape[:2], dtype=torch.bool, device=rows.device)


class Lstm(nn.Module):
    """`layers` LSTM layers and the mean of the last one over all tokens.

    Words come first in a row and padding after them, so that no state of a word has seen padding. The
    dropout is our own: cuDNN's has a state that no checkpoint holds.
    """

    def __init__(
        self,
        inputs: nn.Module,
        size: int,
        classes: int,
        *,
        width: int,
        layers: int,
        dropout: float,
    ) -> None:
        """Take what makes vectors of the inputs (`Tokens` or `Rows`) and the vectors' size."""
        super().__init__()
        self.inputs = inputs
        self.layers = nn.ModuleList(
            nn.LSTM(width if layer else size, width, batch_first=True) for layer in range(layers)
        )
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(width, classes)

    def forward(self, batch: Tensor) -> Tensor:
        """Return `n x classes` logits."""
        vectors, there = self.inputs(batch)
        # Not every CPU has an LSTM in bf16; on one the layers stay in fp32.
        with nullcontext() if batch.is_cuda else torch.autocast("cpu", enabled=False):
            for layer in self.layers:
                vectors = self.dropout(layer(vectors)[0])
        logits: Tensor = self.head(mean_over(vectors, there))
        return logits
