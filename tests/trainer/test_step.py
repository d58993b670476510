"""The step and what it is fed with: no wait for the device, the same results in every form."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from foretune import contract
from foretune_report import Reporter
from foretune_trainer import batches, compiling, config, data, loop, precision
from foretune_trainer.batches import Planner, Split
from foretune_trainer.errors import BadExtraError, PreemptedError
from foretune_trainer.models import build
from foretune_trainer.optimiser import Optimiser
from foretune_trainer.resources import Meter
from foretune_trainer.step import GraphedStep, Step

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from foretune_trainer.config import TrialConfig
    from foretune_trainer.loop import Training

    MakeConfig = Callable[..., TrialConfig]
    MakeTraining = Callable[..., Training]

IMAGE, TEXT = "synthetic:image:3:120", "synthetic:text:3:240"
CPU, CUDA = torch.device("cpu"), torch.device("cuda")
TINY = {"max_length": 16, "width": 16}
GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="GPU: none here")


def chosen(make_config: MakeConfig, model: str, dataset: str, **params: Any) -> TrialConfig:
    workload = {"model": model, "dataset": dataset, "extras": TINY}
    return make_config(
        workload=workload, params={"epochs": 2, "batch_size": 16, "layers": 1, **params}
    )


def weights(training: Training) -> list[torch.Tensor]:
    return [value.clone() for value in training.model.state_dict().values()]


def equal(one: list[torch.Tensor], two: list[torch.Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, two, strict=True))


class Waits(TorchDispatchMode):
    """Counts the times that Python asks for a tensor's content, for which a GPU would be waited for."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        asked = (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default)
        self.count += func in asked
        return func(*args, **(kwargs or {}))


@pytest.mark.slow
@pytest.mark.parametrize("model", contract.BUILTIN_MODELS)
@pytest.mark.parametrize("dataset", [IMAGE, TEXT])
def test_no_wait_in_a_step(
    make_config: MakeConfig, make_training: MakeTraining, model: str, dataset: str
) -> None:
    """No step asks for a number of the device; an epoch does once for each of its three figures at most."""
    training = make_training(chosen(make_config, model, dataset, epochs=1, gradient_clip=1.0))
    plan = training._planner.plan(1, CPU)
    training.model.train()
    with Waits() as seen:
        for number in range(3):
            training._step(*plan.step(number), 0.01)
    assert seen.count == 0
    with Waits() as seen:
        assert training.run()
    assert 1 <= seen.count <= 3


class TestPlan:
    """Which examples make which step."""

    @settings(max_examples=60, deadline=None)
    @given(
        count=st.integers(1, 400),
        size=st.integers(1, 40),
        seed=st.integers(0, 5),
        epoch=st.integers(1, 5),
        grouped=st.booleans(),
    )
    def test_each_example_once(
        self, count: int, size: int, seed: int, epoch: int, grouped: bool
    ) -> None:
        """Every epoch has every example once, in batches of one size but for the last; no id is cut off."""
        lengths = np.random.default_rng(count).integers(1, 60, count)
        planner = Planner(count, size, seed, lengths if grouped else None, 60)
        plan = planner.plan(epoch, CPU)
        steps = [plan.step(number) for number in range(plan.steps)]
        assert sorted(int(i) for index, _ in steps for i in index) == list(range(count))
        assert all(len(index) == size for index, _ in steps[:-1])
        for index, length in steps:
            assert (length is None) is not grouped
            assert length is None or lengths[index.numpy()].max() <= length <= 60
        again = Planner(count, size, seed, lengths if grouped else None, 60).plan(epoch, CPU)
        assert torch.equal(plan.order, again.order)
        assert plan.lengths == again.lengths

    def test_groups_save(self) -> None:
        """Texts of like length come together, in an order that has nothing to do with length."""
        lengths = np.random.default_rng(0).integers(1, 64, 3200)
        grouped, plain = (Planner(3200, 32, 1, one, 64) for one in (lengths, None))
        assert batches.saved(plain, 64) == 0.0
        assert batches.saved(grouped, 64) > 0.3
        cut = grouped.plan(1, CPU).lengths
        assert cut is not None
        assert list(cut) != sorted(cut)
        assert cut != grouped.plan(2, CPU).lengths

    def test_lengths(self) -> None:
        """A text's length goes to its last id; one that is all padding has one."""
        rows = np.asarray([[2, 5, 0, 0], [2, 0, 7, 0], [0, 0, 0, 0], [2, 3, 4, 5]])
        assert batches.lengths_of(rows).tolist() == [2, 3, 1, 4]
        assert [batches.bucket(n, 57) for n in (1, 16, 17, 33, 49, 57)] == [16, 16, 24, 48, 57, 57]


@pytest.mark.slow
@pytest.mark.parametrize("model", config.MASKED)
def test_padding_makes_no_difference(make_config: MakeConfig, model: str) -> None:
    """A text has the same logits however far beyond its end the batch goes."""
    one = chosen(make_config, model, TEXT)
    loaded = data.load(one)
    made = build(one, loaded).eval()
    lengths = batches.lengths_of(loaded.valid.inputs)
    tokens = torch.from_numpy(loaded.valid.inputs)
    short = tokens[torch.from_numpy(lengths <= 12)].long()
    assert 0 < len(short) < len(tokens)
    with torch.no_grad():
        torch.testing.assert_close(made(short[:, :12]), made(short), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_groups_are_resumed(
    make_config: MakeConfig, make_training: MakeTraining, tmp_path: Path
) -> None:
    """A run in pieces with batches of like length ends with the weights of the whole run."""
    wanted = chosen(make_config, "lstm", TEXT, length_groups="on")
    whole = make_training(wanted)
    assert whole._grouped
    assert whole.run()
    assert not equal(weights(whole), _trained(make_training, chosen(make_config, "lstm", TEXT)))
    kept = dataclasses.replace(wanted, checkpoint_dir=tmp_path)
    left = iter([False] * 13 + [True])
    first = make_training(kept, lambda: next(left))
    with pytest.raises(PreemptedError):
        first.run()
    second = make_training(kept)
    assert second.resume()
    assert (second.progress.epoch, second.progress.step) == (1, 2)
    assert second.run()
    assert equal(weights(second), weights(whole))


def _trained(make_training: MakeTraining, wanted: TrialConfig) -> list[torch.Tensor]:
    training = make_training(wanted)
    assert training.run()
    return weights(training)


def test_groups_where_they_save(make_config: MakeConfig, make_training: MakeTraining) -> None:
    """`auto` groups texts when enough padding is saved; a model that sees padding takes no such extra."""
    short = chosen(make_config, "lstm", TEXT, length_groups="auto")
    assert make_training(short)._grouped is (
        batches.saved(
            make_training(chosen(make_config, "lstm", TEXT, length_groups="on"))._planner, 16
        )
        >= loop.GROUP_FROM
    )
    cut = chosen(make_config, "lstm", TEXT, length_groups="auto", max_length=5)
    assert not make_training(cut)._grouped
    with pytest.raises(BadExtraError, match="goes with lstm, transformer, bert, not cnn"):
        chosen(make_config, "cnn", TEXT, length_groups="on")


@pytest.mark.parametrize("dataset", [IMAGE, TEXT])
def test_data_in_the_host(make_config: MakeConfig, dataset: str) -> None:
    """Batches of data that stay in the host's memory, sent ahead or not, are those of data on the device."""
    loaded = data.load(chosen(make_config, "lstm", dataset))
    near, far = (
        Split(loaded.train, loaded, CPU, on_device=on_device) for on_device in (True, False)
    )
    first, second = torch.arange(8), torch.arange(8, 13)
    length = 5 if loaded.kind == "text" else None
    far.send_ahead(first, length)
    far_first = far.batch(first, length)
    far.send_ahead(first, length)  # something else comes after all
    for found, wanted in (
        (far_first, near.batch(first, length)),
        (far.batch(second, length), near.batch(second, length)),
        (far.batch(first), near.batch(first)),
    ):
        assert torch.equal(found[0], wanted[0])
        assert torch.equal(found[1], wanted[1])


class TestGraph:
    """The flow around a graph, with a stand-in that repeats the work itself."""

    @staticmethod
    def again(work: Callable[[], None]) -> Callable[[], None]:
        for _ in range(4):
            work()
        return work

    @staticmethod
    def fail(work: Callable[[], None]) -> Callable[[], None]:
        work()
        raise RuntimeError("operation not permitted when stream is capturing\nmore")

    @pytest.mark.parametrize("capture", ["again", "fail"])
    @pytest.mark.parametrize(("model", "dataset"), [("resnet", IMAGE), ("transformer", TEXT)])
    def test_same_as_eager(
        self,
        make_config: MakeConfig,
        capsys: pytest.CaptureFixture[str],
        model: str,
        dataset: str,
        capture: str,
    ) -> None:
        """Warming up and capturing leave no trace, failing neither; ragged batches and lengths are mixed in."""
        one = chosen(make_config, model, dataset, dropout=0.3)
        loaded = data.load(one)
        ended = []
        for kind in (Step, GraphedStep):
            torch.manual_seed(1)
            made = build(one, loaded).train()
            taken = (made, Optimiser(made.parameters(), "adam", captured=True, clip=1.0))
            split = Split(loaded.train, loaded, CPU)
            more = {"size": 16, "capture": getattr(self, capture)} if kind is GraphedStep else {}
            step = kind(*taken, split, device=CPU, precision="fp32", smoothing=0.1, **more)
            for number in range(6):
                count = 7 if number == 3 else 16
                length = (16, 12)[number % 2] if loaded.kind == "text" else None
                step(torch.arange(number, number + count), length, 0.01 / (1 + number))
            ended.append([*made.state_dict().values(), step.loss, torch.get_rng_state()])
        assert equal(*ended)
        assert isinstance(step, GraphedStep)
        said = capsys.readouterr().err
        if capture == "again":
            assert (step.why_not, said) == (None, "")
            assert set(step._graphs) == ({None} if loaded.kind == "image" else {16, 12})
        else:
            assert step.why_not == "operation not permitted when stream is capturing"
            assert said.count("no CUDA graph of the step") == 1


class TestPrecision:
    """What `auto` is."""

    @pytest.mark.parametrize(
        ("asked", "capability", "width", "found"),
        [
            ("auto", (9, 0), 0, "tf32"),
            ("auto", (8, 0), 255, "tf32"),
            ("auto", (9, 0), 256, "bf16"),
            ("auto", (7, 5), 768, "fp32"),
            ("tf32", (7, 5), 0, "fp32"),
            ("tf32", (8, 9), 768, "tf32"),
            ("fp32", (9, 0), 768, "fp32"),
            ("bf16", (7, 5), 0, "bf16"),
        ],
    )
    def test_gpu(
        self,
        monkeypatch: pytest.MonkeyPatch,
        asked: str,
        capability: tuple[int, int],
        width: int,
        found: str,
    ) -> None:
        """From Ampere on it is TF32, or bf16 for a wide encoder; what is asked for is kept if it exists."""
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
        assert precision.resolve(asked, CUDA, width) == found

    def test_cpu(self, make_config: MakeConfig, make_training: MakeTraining) -> None:
        """On a CPU it is fp32, whatever the width, and the tags say so."""
        assert [precision.resolve(one, CPU, 768) for one in config.PRECISIONS] == [
            *["fp32"] * 3,
            "bf16",
        ]
        training = make_training(chosen(make_config, "bert", IMAGE))
        tags = training.tags()
        told = {name: tags[name] for name in ("precision", "graph", "compile", "data_on")}
        assert told == {"precision": "fp32", "graph": False, "compile": "off", "data_on": "cpu"}

    def test_rounding(self) -> None:
        """`fp32` on a GPU rounds no product to TF32, the others do."""
        places = (torch.backends.cuda.matmul, torch.backends.cudnn.conv, torch.backends.cudnn.rnn)
        before = [place.fp32_precision for place in places]
        try:
            for one, form in (
                ("fp32", "ieee"),
                ("tf32", "tf32"),
                ("fp32", "ieee"),
                ("bf16", "tf32"),
            ):
                precision.prepare(one, CUDA)
                assert [place.fp32_precision for place in places] == [form] * 3
        finally:
            for place, old in zip(places, before, strict=True):
                place.fp32_precision = old


class TestCompile:
    """`torch.compile`, when it is asked for or pays."""

    @pytest.mark.slow
    def test_on(
        self, make_config: MakeConfig, make_training: MakeTraining, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A captured model trains to the weights of the plain one; its first step is booked apart."""
        monkeypatch.setattr(compiling, "BACKEND", "aot_eager")
        monkeypatch.setattr(compiling.shutil, "which", lambda name: name)
        compiled = make_training(chosen(make_config, "cnn", IMAGE, compile="on"))
        assert compiled.run()
        assert compiled.tags()["compile"] == "on"
        assert compiled._meter.read(CPU)["phase_s"]["compile"] > 0
        plain = _trained(make_training, chosen(make_config, "cnn", IMAGE))
        for mine, reference in zip(weights(compiled), plain, strict=True):
            torch.testing.assert_close(mine, reference, rtol=1e-3, atol=1e-4)

    def test_no_compiler(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Without a C compiler `on` is refused and names the image that has one; `auto` says why not."""
        monkeypatch.setattr(compiling.shutil, "which", lambda _: None)
        for device in (CPU, CUDA):
            with pytest.raises(BadExtraError, match="gpu-compile"):
                compiling.Compiling("on", device)
            assert compiling.Compiling("auto", device).state.startswith("off: needs a C compiler")
            assert compiling.Compiling("off", device).state == "off"

    def test_auto(self, make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch) -> None:
        """`auto` compiles when what is left lasts ten times longer than compiling, and only then."""
        monkeypatch.setattr(compiling.shutil, "which", lambda name: name)
        one = chosen(make_config, "cnn", IMAGE)
        loaded = data.load(one)
        made = build(one, loaded)
        step = Step(
            *(made, Optimiser(made.parameters(), "sgd"), Split(loaded.train, loaded, CPU)),
            device=CPU,
            precision="fp32",
            smoothing=0.0,
        )
        epoch_s = compiling.COMPILE_S
        asked = compiling.Compiling("auto", CPU)
        asked.before_epoch(step, 1000)
        asked.after_epoch(epoch_s * 1000, whole=False)
        asked.before_epoch(step, 1000)
        assert asked.state == "off"
        asked.after_epoch(epoch_s, whole=True)
        asked.before_epoch(step, 10)
        assert (asked.state, asked.begins(), step.forward is made) == ("off", False, True)
        asked.before_epoch(step, 11)
        assert (asked.state, asked.begins(), asked.begins()) == ("on", True, False)
        assert step.forward is not made


@GPU
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:RNN module weights are not part:UserWarning")
class TestGpu:
    """What only a GPU shows."""

    @pytest.mark.parametrize("graph", ["off", "on"])
    def test_no_wait(self, make_config: MakeConfig, graph: str) -> None:
        """PyTorch itself sees no step wait for the device, as a graph or without; the graph was captured."""
        for model in contract.BUILTIN_MODELS:
            for dataset in (IMAGE, TEXT):
                training = self.training(chosen(make_config, model, dataset, graph=graph))
                plan = training._planner.plan(1, CUDA)
                training.model.train()
                training._step(*plan.step(0), 0.01)
                torch.cuda.set_sync_debug_mode("error")
                try:
                    for number in range(1, 4):
                        training._step(*plan.step(number), 0.01)
                finally:
                    torch.cuda.set_sync_debug_mode("default")
                assert training.tags()["graph"] is (graph == "on"), (model, dataset)

    def test_same_results(self, make_config: MakeConfig) -> None:
        """Graph, data in the host's memory, and plain steps come to like losses."""
        for model in contract.BUILTIN_MODELS:
            losses = []
            for graph, far in (("off", False), ("on", False), ("off", True)):
                with pytest.MonkeyPatch.context() as patch:
                    if far:
                        patch.setattr(batches, "RESIDENT", 0.0)
                    same = {"graph": graph, "dropout": 0.0, "precision": "fp32"}
                    training = self.training(chosen(make_config, model, TEXT, **same))
                    assert training.tags()["data_on"] == ("cpu" if far else "cuda")
                    assert training.run()
                    losses.append(training._result["train_loss"])
            assert max(losses) - min(losses) < 0.02, (model, losses)

    @staticmethod
    def training(wanted: TrialConfig) -> Training:
        return loop.Training(
            wanted,
            data.load(wanted),
            device=CUDA,
            reporter=Reporter({}),
            meter=Meter(0.0),
            leave=lambda: False,
        )
