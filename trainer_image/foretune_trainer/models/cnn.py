"""Convolutions: over pixels, and over the words of a text."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from torch import Tensor, nn

from foretune_trainer.data.words import PAD
from foretune_trainer.models.transformer import word_vectors

if TYPE_CHECKING:
    from collections.abc import Sequence

SMALLEST: Final = 4
"""Side in pixels from which on a block no longer halves the image."""

WIDEN: Final = 4
"""The channels double with each halving, up to the width times this."""

LAST_SIDE: Final = 2
"""Side of what the last layer sees, so that it still knows where something was."""


class Pooled(nn.Module):
    """Blocks over pixels, shrunk to `LAST_SIDE`, with dropout and a linear layer behind them."""

    def __init__(
        self, blocks: Sequence[nn.Module], channels: int, classes: int, dropout: float
    ) -> None:
        """Take the blocks in order, and the channels that come out of them."""
        super().__init__()
        self.blocks = nn.Sequential(*blocks, nn.AdaptiveAvgPool2d(LAST_SIDE), nn.Flatten())
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(channels * LAST_SIDE * LAST_SIDE, classes)

    def forward(self, pixels: Tensor) -> Tensor:
        """Return `n x classes` logits of `n x c x h x w` standardised pixels."""
        logits: Tensor = self.head(self.dropout(self.blocks(pixels)))
        return logits


class ImageCnn(Pooled):
    """`layers` blocks of 3 x 3 convolution, batch normalisation and ReLU, halving where there is room."""

    def __init__(
        self, shape: Sequence[int], classes: int, *, width: int, layers: int, dropout: float
    ) -> None:
        """Take the images' `c, h, w`."""
        channels, *sides = shape
        side = min(sides)
        blocks: list[nn.Module] = []
        wide = width
        for layer in range(layers):
            blocks += [
                nn.Conv2d(channels, wide, 3, padding=1, bias=False),
                nn.BatchNorm2d(wide),
                nn.ReLU(),
            ]
            channels = wide
            if side >= SMALLEST and layer < layers - 1:
                blocks.append(nn.MaxPool2d(2))
                side //= 2
                wide = min(2 * wide, WIDEN * width)
        super().__init__(blocks, channels, classes, dropout)


class TextCnn(nn.Module):
    """Word vectors, `layers` residual blocks of convolution over three words, the largest over the text."""

    def __init__(
        self, vocabulary: int, classes: int, *, width: int, layers: int, dropout: float
    ) -> None:
        """Take the number of token ids."""
        super().__init__()
        wide = WIDEN * width
        self.words = word_vectors(vocabulary, wide)
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.Conv1d(wide, wide, 3, padding=1, bias=False), nn.BatchNorm1d(wide), nn.ReLU()
            )
            for _ in range(layers)
        )
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(wide, classes)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return `n x classes` logits of `n x length` tokens."""
        pad = (tokens == PAD).unsqueeze(1)
        found = self.dropout(self.words(tokens)).transpose(1, 2)
        for block in self.blocks:
            found = found + block(found).masked_fill(pad, 0.0)
        highest = found.masked_fill(pad, float("-inf")).amax(2)
        logits: Tensor = self.head(self.dropout(highest))
        return logits
