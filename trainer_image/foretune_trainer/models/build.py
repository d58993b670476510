"""From a model's name and a data set's form to a module that gives `n x classes` logits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from foretune_trainer.models import cnn, lstm, resnet, transformer

if TYPE_CHECKING:
    from torch import nn

    from foretune_trainer.config import TrialConfig
    from foretune_trainer.data import Dataset

WIDTHS: Final = {"cnn": 16, "resnet": 16, "lstm": 64, "transformer": 64, "bert": 128}
"""Channels of the first block, or size of a token's vector, unless `width` says otherwise."""

_IMAGES: Final = {"cnn": cnn.ImageCnn, "resnet": resnet.ImageResNet}
_TEXTS: Final = {"cnn": cnn.TextCnn, "resnet": resnet.TextResNet}


def build(config: TrialConfig, data: Dataset) -> nn.Module:
    """Return the model of a trial; every model takes images and texts."""
    width = config["width"] or WIDTHS[config.model]
    layers, dropout = config["layers"], config["dropout"]
    if config.model in _IMAGES:
        if data.kind == "image":
            over_pixels, shape = _IMAGES[config.model], data.train.inputs.shape[1:]
            return over_pixels(shape, data.classes, width=width, layers=layers, dropout=dropout)
        over_words = _TEXTS[config.model]
        return over_words(
            data.vocabulary, data.classes, width=width, layers=layers, dropout=dropout
        )
    if config.model == "bert":
        return _bert(config, data, width)
    if config.model == "lstm" and data.kind == "image":
        rows = lstm.Rows(data.train.inputs.shape[1:])
        return lstm.Lstm(
            rows, rows.width, data.classes, width=width, layers=layers, dropout=dropout
        )
    inputs, length = _vectors(config, data, width)
    if config.model == "lstm":
        return lstm.Lstm(inputs, width, data.classes, width=width, layers=layers, dropout=dropout)
    return transformer.Transformer(
        inputs, length, data.classes, width=width, layers=layers, dropout=dropout
    )


def _vectors(
    config: TrialConfig, data: Dataset, width: int
) -> tuple[transformer.Tokens | transformer.Patches, int]:
    """Return what makes vectors of patches or words, and how many there are at most."""
    if data.kind == "image":
        patches = transformer.Patches(data.train.inputs.shape[1:], width)
        return patches, patches.length
    # The test's longest text may be longer than the training's.
    return transformer.Tokens(data.vocabulary, width), config["max_length"]


def _bert(config: TrialConfig, data: Dataset, width: int) -> nn.Module:
    from foretune_trainer.models import bert  # noqa: PLC0415 - imports transformers

    inputs: transformer.Tokens | transformer.Patches | None
    if config["pretrained"]:
        encoder, inputs = bert.pretrained(config.values), None
        if data.kind == "image":
            inputs, _ = _vectors(config, data, encoder.config.hidden_size)
    else:
        inputs, length = _vectors(config, data, width)
        encoder = bert.scratch(
            length,
            width=width,
            layers=config["layers"],
            dropout=config["dropout"],
            deviation=inputs.deviation,
        )
    return bert.Bert(inputs, encoder, data.classes, config["dropout"])
