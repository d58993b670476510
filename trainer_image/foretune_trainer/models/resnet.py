"""Residual blocks: two convolutions and a way around them, over pixels or over the words of a text."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from torch import Tensor, nn
from torch.nn import functional

from foretune_trainer.data.words import PAD
from foretune_trainer.models.cnn import SMALLEST, WIDEN, Pooled
from foretune_trainer.models.transformer import word_vectors

if TYPE_CHECKING:
    from collections.abc import Sequence


BETWEEN: Final = 3
"""Parts of a block's body up to its second convolution."""


class Block(nn.Module):
    """Two convolutions with batch normalisation, added to what came in, which is fitted where it must be."""

    def __init__(self, channels: int, wide: int, *, stride: int = 1, flat: bool = False) -> None:
        """Take the channels before and after; `flat` is over words, else over pixels."""
        super().__init__()
        convolve = nn.Conv1d if flat else nn.Conv2d
        normalise = nn.BatchNorm1d if flat else nn.BatchNorm2d
        self.body = nn.Sequential(
            convolve(channels, wide, 3, stride=stride, padding=1, bias=False),
            normalise(wide),
            nn.ReLU(),
            convolve(wide, wide, 3, padding=1, bias=False),
            normalise(wide),
        )
        self.around: nn.Module = nn.Identity()
        if stride > 1 or channels != wide:
            self.around = nn.Sequential(
                convolve(channels, wide, 1, stride=stride, bias=False), normalise(wide)
            )

    def forward(self, inputs: Tensor, pad: Tensor | None = None) -> Tensor:
        """Return `n x wide x ...` features, none below zero; zero where `pad` (`n x 1 x ...`) is true."""
        if pad is None:
            return functional.relu(self.body(inputs) + self.around(inputs))
        # Between the convolutions too, or the second would see how much padding a batch happens to have.
        between = self.body[:BETWEEN](inputs).masked_fill(pad, 0.0)
        found = functional.relu(self.body[BETWEEN:](between) + self.around(inputs))
        return found.masked_fill(pad, 0.0)


class ImageResNet(Pooled):
    """A convolution and `layers` residual blocks, halving between them where there is room."""

    def __init__(
        self, shape: Sequence[int], classes: int, *, width: int, layers: int, dropout: float
    ) -> None:
        """Take the images' `c, h, w`."""
        channels, *sides = shape
        side, wide = min(sides), width
        parts: list[nn.Module] = [
            nn.Conv2d(channels, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
        ]
        for layer in range(layers):
            before, stride = wide, 1
            if layer and side >= SMALLEST:
                side, stride = -(-side // 2), 2
                wide = min(2 * wide, WIDEN * width)
            parts.append(Block(before, wide, stride=stride))
        super().__init__(parts, wide, classes, dropout)


class TextResNet(nn.Module):
    """Word vectors, `layers` residual blocks over the words, the largest over the text."""

    def __init__(
        self, vocabulary: int, classes: int, *, width: int, layers: int, dropout: float
    ) -> None:
        """Take the number of token ids."""
        super().__init__()
        wide = WIDEN * width
        self.words = word_vectors(vocabulary, wide)
        self.blocks = nn.ModuleList(Block(wide, wide, flat=True) for _ in range(layers))
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(wide, classes)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return `n x classes` logits of `n x length` tokens."""
        pad = (tokens == PAD).unsqueeze(1)
        found = self.dropout(self.words(tokens)).transpose(1, 2)
        for block in self.blocks:
            found = block(found, pad)
        logits: Tensor = self.head(self.dropout(found.amax(2)))
        return logits
