"""BERT of the transformers library, from scratch and small. Imported only for `model: bert`."""

from __future__ import annotations

from typing import Final

from torch import Tensor, nn
from transformers.models.bert import BertConfig, BertModel

from foretune_trainer.models.transformer import heads_of, mean_over

FEED_FORWARD: Final = 4
"""Width of a layer's inner part, in widths of the model: BERT's own."""


class Bert(nn.Module):
    """BERT's encoder over vectors of words or patches, and the mean over all tokens."""

    def __init__(
        self,
        inputs: nn.Module,
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
        settings = BertConfig(
            vocab_size=2,  # the vectors are ours
            hidden_size=width,
            num_hidden_layers=layers,
            num_attention_heads=heads_of(width),
            intermediate_size=FEED_FORWARD * width,
            hidden_dropout_prob=dropout,
            attention_probs_dropout_prob=dropout,
            max_position_embeddings=max(length, 2),
        )
        settings._attn_implementation = "sdpa"  # noqa: SLF001 - the library's documented way for a config
        self.encoder = BertModel(settings, add_pooling_layer=False)
        self.encoder.embeddings.word_embeddings.requires_grad_(requires_grad=False)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(width, classes)

    def forward(self, batch: Tensor) -> Tensor:
        """Return `n x classes` logits."""
        vectors, there = self.inputs(batch)
        found = self.encoder(inputs_embeds=vectors, attention_mask=there.long())
        logits: Tensor = self.head(self.dropout(mean_over(found.last_hidden_state, there)))
        return logits
