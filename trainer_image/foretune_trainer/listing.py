"""`--list`: what can be trained, and the ranges of what can be set. Loads no large library."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from foretune import contract
from foretune_trainer import config

if TYPE_CHECKING:
    from collections.abc import Sequence


_UNSET: Final = {"width": "the model's", "max_samples": "all", "pretrained": "from scratch"}
"""What an extra without a default value means."""


def text() -> str:
    """Return models by data sets with the natural cells flagged, hyperparameters and extras."""
    models = contract.BUILTIN_MODELS
    cells: list[tuple[str, ...]] = [("data set", "kind", *models)]
    for dataset, kind in config.KINDS.items():
        marks = ("natural" if config.natural(model, kind) else "yes" for model in models)
        cells.append((dataset, kind, *marks))
    made = ("synthetic:<image|text>:<classes>:<size>", "as named", *("yes" for _ in models))
    tuned = [("hyperparameter", "also", "values", "usual", "default")]
    for name, field in config.HYPERPARAMETERS.items():
        also = ", ".join(contract.BUILTIN_PARAMETERS[name])
        tuned.append((name, also, field.range, config.USUAL.get(name, ""), str(field.default)))
    extras = [("extra", "models", "values", "default")]
    for name, field in config.EXTRAS.items():
        only = ", ".join(config.ONLY.get(name, ()))
        default = _UNSET[name] if field.default is None else str(field.default)
        extras.append((name, only or "all", field.range, default))
    return "\n\n".join(
        (
            "Models by data sets (natural: the model is made for such data)",
            _table([*cells, made]),
            _table(tuned),
            _table(extras),
        )
    )


def _table(rows: Sequence[Sequence[str]]) -> str:
    """Return rows as lines with their columns aligned."""
    wide = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, wide, strict=True)).rstrip()
        for row in rows
    )
