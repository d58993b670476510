"""In which numbers a trial is trained."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any, Final

import torch

AMPERE: Final = (8, 0)
"""Compute capability from which on a GPU has TF32 and bf16."""

WIDE: Final = 256
"""Width of an encoder from which on `auto` takes bf16: narrower ones wait for kernels to start, and casts
are more kernels."""


def resolve(asked: str, device: torch.device, encoder_width: int = 0) -> str:
    """Return `fp32`, `tf32` or `bf16`.

    `encoder_width` is that of a transformer or BERT, 0 for any other model. `auto` is fp32 on a CPU and on
    GPUs before Ampere. TF32 is a form of fp32 that only GPUs have, and the same as fp32 elsewhere.
    """
    modern = device.type == "cuda" and torch.cuda.get_device_capability(device) >= AMPERE
    if asked == "auto":
        if not modern:
            return "fp32"
        return "bf16" if encoder_width >= WIDE else "tf32"
    return "fp32" if asked == "tf32" and not modern else asked


def prepare(precision: str, device: torch.device) -> None:
    """Set what PyTorch may round products of fp32 numbers to in this process; `fp32` means fp32."""
    if device.type != "cuda":
        return
    form = "ieee" if precision == "fp32" else "tf32"
    cudnn: Any = torch.backends.cudnn  # its parts have no types
    for place in (torch.backends.cuda.matmul, cudnn.conv, cudnn.rnn):
        place.fp32_precision = form


def cast(precision: str, device: torch.device) -> AbstractContextManager[Any]:
    """Return the context in which a model is called."""
    if precision == "bf16":
        return torch.autocast(device.type, torch.bfloat16)
    return nullcontext()
