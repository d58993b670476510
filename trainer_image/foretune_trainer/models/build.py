"""From a model's name and a data set's form to a module that gives `n x classes` logits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from foretune_trainer.models import cnn, transformer

if TYPE_CHECKING:
    from torch import nn

    from foretune_trainer.config import TrialConfig
    from foretune_trainer.data import Dataset

WIDTHS: Final = {"cnn": 16, "transformer": 64, "bert": 128}
"""Channels of the first block, or size of a token's vector, unless `width` says otherwise."""


def build(config: TrialConfig, data: Dataset) -> nn.Module:
    """Return the model of a trial; every model takes images and texts."""
    width = config["width"] or WIDTHS[config.model]
    layers, dropout = config["layers"], config["dropout"]
    shape = data.train.inputs.shape[1:]
    if config.model == "cnn":
        if data.kind == "image":
            return cnn.ImageCnn(shape, data.classes, width=width, layers=layers, dropout=dropout)
        vocabulary = data.vocabulary
        return cnn.TextCnn(vocabulary, data.classes, width=width, layers=layers, dropout=dropout)
    inputs: nn.Module
    if data.kind == "image":
        inputs = patches = transformer.Patches(shape, width)
        length = patches.length
    else:
        inputs = transformer.Tokens(data.vocabulary, width)
        length = config["max_length"]  # the test's longest text may be longer than the training's
    if config.model == "bert":
        from foretune_trainer.models import bert  # noqa: PLC0415 - imports transformers

        return bert.Bert(inputs, length, data.classes, width=width, layers=layers, dropout=dropout)
    return transformer.Transformer(
        inputs, length, data.classes, width=width, layers=layers, dropout=dropout
    )
