"""From arrays to batches: where the examples lie, in which order they come, and how long a batch of texts is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
import torch
from torch import Tensor

from foretune_trainer.data.words import PAD

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from foretune_trainer.data import Dataset, Part

ORDER_STRIDE: Final = 1_000_003
"""The order of epoch e comes from seed * this + e, so that a resumed epoch has the order it had."""

RESIDENT: Final = 0.25
"""Share of a GPU's free memory that the data may take; above it they stay in the host's memory."""

BUCKETS: Final = (16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 2048, 4096)
"""Lengths to which a batch of texts of like length is cut. Few, as each is a CUDA graph of its own."""

GROUP: Final = 50
"""Batches whose examples are sorted by length together."""


def resident(data: Dataset, device: torch.device) -> bool:
    """Whether all parts of a data set should lie on the device."""
    if device.type != "cuda":
        return True
    free, _ = torch.cuda.mem_get_info(device)
    parts = (data.train, data.valid, data.test)
    return sum(part.inputs.nbytes + part.labels.nbytes for part in parts) <= RESIDENT * free


class Split:
    """One part of the data, as it came: on the device, or in the host's memory with copies sent ahead."""

    def __init__(
        self, part: Part, data: Dataset, device: torch.device, *, on_device: bool = True
    ) -> None:
        """Take the part; pixels stay bytes and ids short until a batch is made."""
        inputs = part.inputs
        if (
            device.type == "cuda"
            and data.kind == "text"
            and data.vocabulary <= np.iinfo(np.int16).max
        ):
            inputs = inputs.astype(np.int16)
        self._device, self.on_device = device, on_device
        place = device if on_device else torch.device("cpu")
        self._inputs = torch.from_numpy(inputs).to(place)
        self._labels = torch.from_numpy(part.labels).to(place)
        self._pixels = data.kind == "image"
        self._mean, self._deviation = data.mean, data.deviation
        self._form = torch.channels_last if device.type == "cuda" else torch.contiguous_format
        self._ahead: tuple[Tensor, int | None, Tensor, Tensor] | None = None
        self._stream = (
            torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
            if device.type == "cuda" and not on_device
            else None
        )

    def __len__(self) -> int:
        return len(self._labels)

    @property
    def place(self) -> torch.device:
        """Where indices have to be."""
        return self._labels.device

    def batch(self, index: Tensor, length: int | None = None) -> tuple[Tensor, Tensor]:
        """Return what a model takes, and the labels, of the examples at `index`.

        Texts are cut to `length` ids, if given. Both are on the device; nothing waits for it.
        """
        ahead, self._ahead = self._ahead, None
        if ahead is not None and ahead[0] is index and ahead[1] == length:
            rows, labels = ahead[2], ahead[3]
            if self._stream is not None:
                current = torch.cuda.current_stream(self._device)
                current.wait_stream(self._stream)
                rows.record_stream(current)
                labels.record_stream(current)
        else:
            rows, labels = self._take(index, length)
        if self._pixels:
            pixels = rows.float().sub_(self._mean).div_(self._deviation)
            return pixels.contiguous(memory_format=self._form), labels
        return rows.long(), labels

    def send_ahead(self, index: Tensor, length: int | None = None) -> None:
        """Begin to copy the batch that comes next, unless the data are on the device already."""
        if self.on_device:
            return
        if self._stream is None:
            self._ahead = (index, length, *self._take(index, length))
            return
        with torch.cuda.stream(self._stream):
            self._ahead = (index, length, *self._take(index, length))

    def _take(self, index: Tensor, length: int | None) -> tuple[Tensor, Tensor]:
        """Return the examples as they are stored, on the device."""
        inputs = self._inputs if length is None else self._inputs[:, :length]
        if self.on_device or self._device.type != "cuda":
            return inputs[index], self._labels[index]
        # Pinned memory comes from PyTorch's cache, which keeps a block until its copy is done.
        sent = []
        for source in (inputs, self._labels):
            shape = (len(index), *source.shape[1:])
            pinned = torch.empty(shape, dtype=source.dtype, pin_memory=True)
            torch.index_select(source, 0, index, out=pinned)
            sent.append(pinned.to(self._device, non_blocking=True))
        return sent[0], sent[1]


def bucket(length: int, longest: int) -> int:
    """Return the length to which a batch is cut whose longest text has `length` ids; at most `longest`."""
    return min(next((one for one in BUCKETS if one >= length), longest), longest)


def lengths_of(inputs: NDArray[np.generic]) -> NDArray[np.int64]:
    """Return the number of ids of each text, its padding left out; at least 1."""
    there = inputs != PAD
    last = inputs.shape[1] - np.argmax(there[:, ::-1], axis=1)
    return np.where(there.any(axis=1), last, 1)


@dataclass(frozen=True)
class Plan:
    """One epoch: which examples make which step."""

    order: Tensor
    """Positions of all examples, where the data are."""
    size: int
    lengths: tuple[int, ...] | None = None
    """What each step's texts are cut to; None for all of the array."""

    @property
    def steps(self) -> int:
        """Return the number of steps; the last one may have fewer examples."""
        return -(-len(self.order) // self.size)

    def step(self, number: int) -> tuple[Tensor, int | None]:
        """Return the examples of a step from 0, and their length."""
        index = self.order[number * self.size : (number + 1) * self.size]
        return index, self.lengths[number] if self.lengths is not None else None


class Planner:
    """Makes the same plan of an epoch for the same seed, in whichever process."""

    def __init__(
        self, count: int, size: int, seed: int, lengths: NDArray[np.int64] | None, longest: int
    ) -> None:
        """Take the number of examples and of a batch; `lengths` group texts of like length."""
        self._count, self._size, self._seed = count, size, seed
        self._lengths, self._longest = lengths, longest

    def plan(self, epoch: int, place: torch.device) -> Plan:
        """Return the plan of an epoch (from 1)."""
        generator = torch.Generator().manual_seed(self._seed * ORDER_STRIDE + epoch)
        order = torch.randperm(self._count, generator=generator)
        if self._lengths is None:
            return Plan(order.to(place), self._size)
        order = self._grouped(order.numpy(), generator)
        batches = np.array_split(order.numpy(), range(self._size, self._count, self._size))
        cut = tuple(bucket(int(self._lengths[one].max()), self._longest) for one in batches)
        return Plan(order.to(place), self._size, cut)

    def _grouped(self, order: NDArray[np.int64], generator: torch.Generator) -> Tensor:
        """Sort each `GROUP` batches by length, and shuffle the batches; the short last one stays last."""
        assert self._lengths is not None
        whole = self._count // self._size * self._size
        full, rest = order[:whole], order[whole:]
        wide = GROUP * self._size
        groups = [full[start : start + wide] for start in range(0, whole, wide)]
        ordered = [one[np.argsort(self._lengths[one], kind="stable")] for one in groups]
        batches = np.concatenate([full[:0], *ordered]).reshape(-1, self._size)
        turn = torch.randperm(len(batches), generator=generator).numpy()
        return torch.from_numpy(np.concatenate([batches[turn].reshape(-1), rest]))


def saved(planner: Planner, longest: int) -> float:
    """Return the share of ids that grouping leaves out in the first epoch."""
    cut = planner.plan(1, torch.device("cpu")).lengths
    return 1.0 - sum(cut) / (longest * len(cut)) if cut else 0.0
