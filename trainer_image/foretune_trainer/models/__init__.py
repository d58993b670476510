"""Models. `layers` counts convolution blocks (cnn), residual blocks (resnet), LSTM or encoder layers."""

from __future__ import annotations

from foretune_trainer.models.build import WIDTHS, build

__all__ = ["WIDTHS", "build"]
