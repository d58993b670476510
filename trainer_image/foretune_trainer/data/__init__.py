"""Data sets as arrays: train, validation (held out of train), test."""

from __future__ import annotations

from foretune_trainer.data.datasets import Dataset, Part, load

__all__ = ["Dataset", "Part", "load"]
