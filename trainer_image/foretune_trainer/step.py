"""One step of the training: eager, or as a CUDA graph. It never waits for the device."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import Tensor
from torch.nn import functional

from foretune_trainer.precision import cast

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import nn

    from foretune_trainer.batches import Split
    from foretune_trainer.optimiser import Optimiser

WARM_UP: Final = 3
"""Steps on a stream of their own before a capture, in which libraries choose their kernels."""


class Step:
    """A step, operation by operation."""

    def __init__(
        self,
        model: nn.Module,
        optimiser: Optimiser,
        split: Split,
        *,
        device: torch.device,
        precision: str,
        smoothing: float,
    ) -> None:
        """Take what is trained, and the examples."""
        self.model = model
        self.forward: Callable[[Tensor], Tensor] = model
        """What is called: the model, or a compiled form of it."""
        self.loss = torch.zeros((), device=device, dtype=torch.float64)
        """Sum of the losses of all examples since it was last set to zero."""
        self._optimiser, self._split = optimiser, split
        self._device, self._precision, self._smoothing = device, precision, smoothing

    def __call__(self, index: Tensor, length: int | None, rate: float) -> None:
        """Train on the examples at `index`, cut to `length`, with learning rate `rate`."""
        self._optimiser.prepare(rate)
        self.body(index, length)

    def body(self, index: Tensor, length: int | None) -> None:
        """Do the part that runs on the device alone."""
        inputs, labels = self._split.batch(index, length)
        with cast(self._precision, self._device):
            loss = functional.cross_entropy(
                self.forward(inputs), labels, label_smoothing=self._smoothing
            )
        self._optimiser.clear()
        loss.backward()  # type: ignore[no-untyped-call]
        self._optimiser.follow()
        self.loss.add_(loss.detach(), alpha=len(labels))


class GraphedStep(Step):
    """A step as CUDA graphs, one for each length; a batch of another size goes operation by operation.

    Needs the data on the device, and an optimiser whose numbers are tensors (`captured`).
    """

    def __init__(
        self,
        *args: Any,
        size: int,
        capture: Callable[[Callable[[], None]], Callable[[], None]] | None = None,
        **named: Any,
    ) -> None:
        """Take the size of a whole batch; `capture` turns work on the device into a call that repeats it."""
        super().__init__(*args, **named)
        self._size = size
        self._capture = capture or CudaCapture()
        self._index = torch.zeros(size, dtype=torch.int64, device=self._device)
        self._graphs: dict[int | None, Callable[[], None]] = {}
        self.why_not: str | None = None
        """Why there is no graph, where capturing one failed."""

    def __call__(self, index: Tensor, length: int | None, rate: float) -> None:
        """See `Step`."""
        graph = self._graph(length) if len(index) == self._size else None
        if graph is None:
            super().__call__(index, length, rate)
            return
        self._optimiser.prepare(rate)
        self._index.copy_(index)
        graph()

    def forget(self) -> None:
        """Drop the graphs, as after `forward` was set."""
        self._graphs.clear()

    def _graph(self, length: int | None) -> Callable[[], None] | None:
        found = self._graphs.get(length)
        if found is not None or self.why_not is not None:
            return found
        kept = self._kept()
        before = [one.clone() for one in kept]
        cuda = self._device.type == "cuda"
        chance = torch.cuda.get_rng_state(self._device) if cuda else torch.get_rng_state()
        try:
            self._graphs[length] = self._capture(lambda: self.body(self._index, length))
        except RuntimeError as error:
            self.why_not = (str(error) or type(error).__name__).splitlines()[0]
            text = f"foretune_trainer: no CUDA graph of the step: {self.why_not}; training goes on"
            print(text, file=sys.stderr, flush=True)
        # Warming up and capturing leaves no trace.
        with torch.no_grad():
            for one, old in zip(kept, before, strict=True):
                one.copy_(old)
        if cuda:
            torch.cuda.set_rng_state(chance, self._device)
        else:
            torch.set_rng_state(chance)
        return self._graphs.get(length)

    def _kept(self) -> list[Tensor]:
        """Return all that a step changes."""
        return [*self._optimiser.vectors(), *self.model.buffers(), self.loss]


class CudaCapture:
    """Captures CUDA graphs that share their memory."""

    def __init__(self) -> None:
        """Take no memory yet."""
        self._pool: Any = None

    def __call__(self, work: Callable[[], None]) -> Callable[[], None]:
        """Return a call that repeats `work`, which has run a few times by then."""
        own = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        own.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(own):
            for _ in range(WARM_UP):
                work()
        torch.cuda.current_stream().wait_stream(own)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool):
            work()
        self._pool = graph.pool()
        replay: Callable[[], None] = graph.replay
        return replay
