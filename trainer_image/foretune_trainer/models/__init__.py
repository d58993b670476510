"""Models. `layers` counts convolution blocks (cnn) or encoder layers (transformer, bert)."""

from __future__ import annotations

from foretune_trainer.models.build import build

__all__ = ["build"]
