"""BERT of the transformers library: from scratch and small, or pretrained. Imported only for `bert`."""

from __future__ import annotations

import pickle
from typing import TYPE_CHECKING, Final

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers.models.bert import BertConfig, BertModel
from transformers.utils import logging

from foretune_trainer.data.words import PAD
from foretune_trainer.errors import BadConfigError, BadExtraError, DataUnreachableError
from foretune_trainer.models.transformer import heads_of, mean_over

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

FEED_FORWARD: Final = 4
"""Width of a layer's inner part, in widths of the model: BERT's own."""


class Bert(nn.Module):
    """BERT's encoder over words or patches, and the mean over all tokens."""

    def __init__(
        self, inputs: nn.Module | None, encoder: BertModel, classes: int, dropout: float
    ) -> None:
        """Take what makes vectors of the inputs; None leaves token ids to the encoder's own vectors."""
        super().__init__()
        self.inputs = inputs
        self.encoder = encoder
        if inputs is not None:
            encoder.embeddings.word_embeddings.requires_grad_(requires_grad=False)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(encoder.config.hidden_size, classes)

    def forward(self, batch: Tensor) -> Tensor:
        """Return `n x classes` logits."""
        # A mask of four dimensions is taken as it is; of one of two the library asks whether all of it is
        # true, which waits for the device.
        if self.inputs is None:
            there = batch != PAD
            found = self.encoder(input_ids=batch, attention_mask=there[:, None, None, :])
        else:
            vectors, there = self.inputs(batch)
            mask = there[:, None, None, :] if self.inputs.padded else None
            found = self.encoder(inputs_embeds=vectors, attention_mask=mask)
        logits: Tensor = self.head(self.dropout(mean_over(found.last_hidden_state, there)))
        return logits


def scratch(length: int, *, width: int, layers: int, dropout: float, deviation: float) -> BertModel:
    """Return an encoder with random weights for at most `length` vectors of `width` numbers.

    `deviation` is the standard deviation of its positions.
    """
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
    encoder = BertModel(settings, add_pooling_layer=False)
    nn.init.normal_(encoder.embeddings.position_embeddings.weight, std=deviation)
    return encoder


def pretrained(values: Mapping[str, Any]) -> BertModel:
    """Return the first layers of a pretrained encoder, without running any code that came with it.

    Raises `DataUnreachableError` when it can't be had now, `BadExtraError` when it is no BERT or is
    damaged, `BadConfigError` when it has fewer layers.
    """
    name, layers, dropout = values["pretrained"], values["layers"], values["dropout"]
    logging.disable_progress_bar()
    logging.set_verbosity_error()  # it would list the layers that are left out
    try:
        found, _ = BertConfig.get_config_dict(name)
        if found.get("model_type") != "bert":
            raise BadExtraError(f"{_PLACE}: {name} is no BERT but {found.get('model_type')}")
        settings = BertConfig.from_dict(
            found, hidden_dropout_prob=dropout, attention_probs_dropout_prob=dropout
        )
        _check(name, settings, values)
        settings.num_hidden_layers = layers
        encoder: BertModel = BertModel.from_pretrained(
            name,
            config=settings,
            add_pooling_layer=False,
            attn_implementation="sdpa",
            dtype=torch.float32,
            weights_only=True,
        )
    except OSError as error:
        raise DataUnreachableError(
            f"{_PLACE}: {name}: is neither a folder with a model here, nor in the cache, nor on the hub: "
            f"{str(error).splitlines()[0]}"
        ) from error
    except (ValueError, SafetensorError, pickle.UnpicklingError) as error:
        raise BadExtraError(f"{_PLACE}: {name}: {str(error).splitlines()[0]}") from error
    frozen = values["frozen_layers"]
    if frozen:
        for part in (encoder.embeddings, *encoder.encoder.layer[:frozen]):
            part.requires_grad_(requires_grad=False)
    return encoder


_PLACE: Final = "workload.extras.pretrained"


def _check(name: str, settings: BertConfig, values: Mapping[str, Any]) -> None:
    has, longest = settings.num_hidden_layers, settings.max_position_embeddings
    if values["layers"] > has:
        raise BadConfigError(f"params.layers: must be at most {has}, which {name} has")
    if values["max_length"] > longest:
        raise BadExtraError(f"workload.extras.max_length: must be at most {longest} with {name}")
