"""An encoder of our own in a few lines: it starts faster than the library's, and takes any input."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import torch
from torch import Tensor, nn
from torch.nn import functional

from foretune_trainer.data.words import PAD

if TYPE_CHECKING:
    from collections.abc import Sequence

HEAD_WIDTH: Final = 16
"""Numbers of a token's vector that one attention head should have, at least."""

FEED_FORWARD: Final = 2
"""Width of a layer's inner part, in widths of the model."""

SMALL_SIDE: Final = 16
"""Images up to this side are cut into patches of 2 x 2 pixels, larger ones of 4 x 4."""

START_DEVIATION: Final = 0.02
"""Standard deviation of fresh word vectors and their positions."""

PATCH_DEVIATION: Final = 0.5
"""Standard deviation of the positions of patches: about that of fresh patches' vectors. With much weaker
ones a model takes long to learn where a patch is."""


def heads_of(width: int) -> int:
    """Return the number of attention heads: the most, up to 8, that divide the width evenly."""
    fits = (h for h in (8, 4, 2) if width % h == 0 and width // h >= HEAD_WIDTH)
    return next(fits, 1)


def word_vectors(vocabulary: int, width: int) -> nn.Embedding:
    """Return fresh vectors of `width` numbers for `vocabulary` token ids; that of padding is zero.

    They are small: with PyTorch's own deviation of 1 a model over words starts from wild guesses, and learns
    the words of a few thousand texts far worse.
    """
    words = nn.Embedding(vocabulary, width, padding_idx=PAD)
    with torch.no_grad():
        words.weight.normal_(std=START_DEVIATION)
        words.weight[PAD] = 0.0
    return words


class Tokens(nn.Module):
    """Word vectors of token ids, and which of them are padding."""

    padded = True
    """Whether some inputs may be shorter than others."""

    deviation = START_DEVIATION
    """Standard deviation that fresh positions should have."""

    def __init__(self, vocabulary: int, width: int) -> None:
        """Take the number of token ids."""
        super().__init__()
        self.words = word_vectors(vocabulary, width)

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Return `n x length x width` vectors and `n x length` booleans, true where a word is."""
        return self.words(tokens), tokens != PAD


class Patches(nn.Module):
    """Vectors of an image's square patches; pixels at the edge that fill no patch are padded with zeros."""

    padded = False
    """Images all have the same number of patches."""

    deviation = PATCH_DEVIATION
    """Standard deviation that fresh positions should have."""

    def __init__(self, shape: Sequence[int], width: int) -> None:
        """Take the images' `c, h, w`."""
        super().__init__()
        channels, high, wide = shape
        side = 2 if max(high, wide) <= SMALL_SIDE else 4
        self.margin = (0, -wide % side, 0, -high % side)
        self.cut = nn.Conv2d(channels, width, side, stride=side)
        self.length = -(-high // side) * -(-wide // side)

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Return `n x length x width` vectors and `n x length` booleans, all true."""
        found = self.cut(functional.pad(pixels, self.margin)).flatten(2).transpose(1, 2)
        return found, torch.ones(found.shape[:2], dtype=torch.bool, device=found.device)


def mean_over(vectors: Tensor, there: Tensor) -> Tensor:
    """Return the `n x width` means of `n x length x width` vectors where `there` is true."""
    weight = there.unsqueeze(-1).to(vectors.dtype)
    return (vectors * weight).sum(1) / weight.sum(1)


class Layer(nn.Module):
    """Attention and feed-forward, each normalised before and added after."""

    def __init__(self, width: int, dropout: float) -> None:
        """Take the width of a token's vector."""
        super().__init__()
        self.heads = heads_of(width)
        self.before_attention = nn.LayerNorm(width)
        self.project = nn.Linear(width, 3 * width)
        self.join = nn.Linear(width, width)
        self.before_feed = nn.LayerNorm(width)
        self.feed = nn.Sequential(
            nn.Linear(width, FEED_FORWARD * width),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Linear(FEED_FORWARD * width, width),
        )
        self.dropout = nn.Dropout(dropout)

    def forward(self, vectors: Tensor, mask: Tensor | None) -> Tensor:
        """Return `n x length x width` vectors; `mask` is `n x 1 x 1 x length`, true where a token is.

        Without a mask a GPU has its fastest attention to choose.
        """
        count, length, width = vectors.shape
        three = self.project(self.before_attention(vectors))
        parts = three.view(count, length, 3, self.heads, width // self.heads)
        query, key, value = parts.permute(2, 0, 3, 1, 4)
        drop = self.dropout.p if self.training else 0.0
        seen = functional.scaled_dot_product_attention(
            query, key, value, attn_mask=mask, dropout_p=drop
        )
        seen = seen.transpose(1, 2).reshape(count, length, width)
        vectors = vectors + self.dropout(self.join(seen))
        fed: Tensor = vectors + self.dropout(self.feed(self.before_feed(vectors)))
        return fed


class Transformer(nn.Module):
    """Inputs, learned positions, `layers` layers, and the mean over all tokens."""

    def __init__(
        self,
        inputs: Tokens | Patches,
        length: int,
        classes: int,
        *,
        width: int,
        layers: int,
        dropout: float,
    ) -> None:
        """Take what makes vectors of the inputs (`Tokens` or `Patches`) and the longest input."""
        super().__init__()
        self.inputs = inputs
        self.positions = nn.Parameter(inputs.deviation * torch.randn(length, width))
        self.layers = nn.ModuleList(Layer(width, dropout) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(width, classes)

    def forward(self, batch: Tensor) -> Tensor:
        """Return `n x classes` logits."""
        vectors, there = self.inputs(batch)
        vectors = self.dropout(vectors + self.positions[: vectors.shape[1]])
        mask = there[:, None, None, :] if self.inputs.padded else None
        for layer in self.layers:
            vectors = layer(vectors, mask)
        logits: Tensor = self.head(self.dropout(mean_over(self.norm(vectors), there)))
        return logits
