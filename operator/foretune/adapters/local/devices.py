"""GPUs of this machine, dealt out to trials."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

VISIBLE: Final = "CUDA_VISIBLE_DEVICES"
"""Variable that says which devices a process may use, by index or uid."""

_DEVICE: Final = re.compile(r"nvidia(\d+)")


def available(environ: Mapping[str, str], folder: Path = Path("/dev")) -> tuple[str, ...]:
    """Return the devices that trials may use: those the user made visible, else all of them."""
    found = [match[1] for path in folder.glob("nvidia*") if (match := _DEVICE.fullmatch(path.name))]
    if not found:
        return ()
    if VISIBLE in environ:
        return tuple(part.strip() for part in environ[VISIBLE].split(",") if part.strip())
    return tuple(sorted(found, key=int))


def deal(devices: Sequence[str], wanted: int, held: Iterable[Sequence[str]]) -> tuple[str, ...]:
    """Return `wanted` devices (at most those there are), the least used by running trials first."""
    load = Counter(device for devices_of_one in held for device in devices_of_one)
    ranked = sorted(devices, key=lambda device: (load[device], devices.index(device)))
    return tuple(ranked[:wanted])
