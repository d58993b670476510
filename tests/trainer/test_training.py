"""Training itself: it learns, it is repeatable, and it goes on where it was."""

from __future__ import annotations

import math
import random
import time
from typing import TYPE_CHECKING, Any

import pytest
import torch
from tests.support.trials import trial_json

from foretune import contract
from foretune.contract import ExitCode
from foretune_trainer import checkpoint
from foretune_trainer.errors import DivergedError, PreemptedError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from foretune_trainer.config import TrialConfig
    from foretune_trainer.loop import Training

    MakeConfig = Callable[..., TrialConfig]
    MakeTraining = Callable[..., Training]

IMAGE, TEXT = "synthetic:image:3:240", "synthetic:text:3:450"


def weights(training: Training) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in training.model.state_dict().items()}


def assert_equal(left: Training, right: Training) -> None:
    first, second = weights(left), weights(right)
    assert first.keys() == second.keys()
    unequal = [name for name in first if not torch.equal(first[name], second[name])]
    assert unequal == []


class AtStep:
    """Asks to leave before the n-th step from now."""

    def __init__(self, step: int) -> None:
        self._left = step

    def __call__(self) -> bool:
        self._left -= 1
        return self._left < 0


@pytest.mark.slow
@pytest.mark.parametrize("model", contract.BUILTIN_MODELS)
@pytest.mark.parametrize("dataset", [IMAGE, TEXT])
def test_every_cell_learns(
    make_config: MakeConfig, make_training: MakeTraining, model: str, dataset: str
) -> None:
    """Each model takes images and texts, and is far above chance (1/3) on data it has not seen."""
    extras = {"max_length": 16} | ({"width": 32} if model == "bert" else {})
    training = make_training(
        make_config(
            workload={"model": model, "dataset": dataset, "extras": extras},
            params={"lr": 0.003, "epochs": 8, "batch_size": 16, "layers": 1, "dropout": 0.1},
        )
    )
    assert training.run()
    assert training.test() > 0.6
    assert 1 / 3 < training._result["accuracy"] <= 1


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["adam", "sgd", "rmsprop"])
def test_digits(make_config: MakeConfig, make_training: MakeTraining, optimizer: str) -> None:
    """A small CNN reads nine digits of ten after a few epochs, whatever the optimiser."""
    training = make_training(
        make_config(
            workload={"model": "cnn", "dataset": "digits"},
            params={"lr": 0.01, "epochs": 4, "layers": 3, "optimizer": optimizer},
        )
    )
    assert training.run()
    assert training.test() > 0.9


def test_same_seed_same_weights(make_config: MakeConfig, make_training: MakeTraining) -> None:
    """Two runs of one configuration end with the same weights; another seed does not."""
    ended = []
    for seed in (3, 3, 4):  # one after the other: they share PyTorch's generator
        ended.append(make_training(make_config(seed=seed)))
        assert ended[-1].run()
    one, two, other = ended
    assert_equal(one, two)
    assert not torch.equal(one.model.head.weight, other.model.head.weight)


class TestResume:
    """A run in pieces is the run."""

    @pytest.mark.parametrize(
        ("model", "step"),
        [
            *(("cnn", step) for step in (0, 1, 5, 6, 7, 17)),
            *(pytest.param("transformer", step, marks=pytest.mark.slow) for step in (0, 7)),
            pytest.param("resnet", None, marks=pytest.mark.slow),
            pytest.param("lstm", None, marks=pytest.mark.slow),
        ],
    )
    def test_equals_the_uninterrupted_run(
        self,
        make_config: MakeConfig,
        make_training: MakeTraining,
        tmp_path: Path,
        model: str,
        step: int | None,
    ) -> None:
        """Interrupted before any step, with dropout and a schedule, the weights end bit for bit the same."""
        step = random.randrange(18) if step is None else step
        params = {
            "epochs": 3,
            "batch_size": 64,
            "dropout": 0.3,
            "optimizer": "adam",
            "schedule": "cosine",
            "warmup": 0.2,
            "gradient_clip": 1.0,
        }
        changes = {
            "params": params,
            "workload": {
                "model": model,
                "dataset": "digits",
                "extras": {"max_samples": 400, "width": 16},
            },
        }
        whole = make_training(make_config(**changes))
        assert whole._steps == 6
        assert whole.run()
        pieces = make_config(**changes, checkpoint={"dir": str(tmp_path)})
        first = make_training(pieces, AtStep(step))
        with pytest.raises(PreemptedError, match="a checkpoint was written") as caught:
            first.run()
        assert caught.value.code is ExitCode.PREEMPTED
        second = make_training(pieces)
        torch.randn(17)  # whatever used the generator since
        assert second.resume()
        assert (second.progress.epoch, second.progress.step) == divmod(step, 6)
        assert second.run()
        assert_equal(whole, second)
        assert second._result == whole._result

    def test_more_epochs(
        self, make_config: MakeConfig, make_training: MakeTraining, tmp_path: Path
    ) -> None:
        """A trial that was trained for two epochs is trained on to four as if it had never ended."""

        def chosen(epochs: int, **more: Any) -> TrialConfig:
            return make_config(params={"epochs": epochs, "batch_size": 64}, **more)

        whole = make_training(chosen(4))
        assert whole.run()
        short = make_training(chosen(2, checkpoint={"dir": str(tmp_path), "everySeconds": 0}))
        assert short.run()
        assert short.save()
        longer = make_training(chosen(4, checkpoint={"dir": str(tmp_path)}))
        assert longer.resume()
        assert longer.run()
        assert_equal(whole, longer)

    @pytest.mark.parametrize("how", ["cosine", "warmup"])
    def test_fidelity(
        self, make_config: MakeConfig, make_training: MakeTraining, tmp_path: Path, how: str
    ) -> None:
        """Four epochs of at most eight are the first four of eight, and go on to be the eight."""
        shape = {"schedule": "cosine"} if how == "cosine" else {"warmup": 0.6}

        def chosen(epochs: int, most: int = 8, **more: Any) -> TrialConfig:
            params = {"lr": 0.01, "epochs": epochs, "batch_size": 64, "dropout": 0.2, **shape}
            return make_config(params=params, fidelity={"name": "epochs", "max": most}, **more)

        folder = {"checkpoint": {"dir": str(tmp_path)}}
        four, told = make_training(chosen(4, **folder)), []
        real = four._reporter.report

        def report(*arguments: Any, **more: Any) -> Any:
            told.append(more["progress"])
            return real(*arguments, **more)

        four._reporter.report = report  # type: ignore[method-assign]
        assert four.run()
        assert told == [0.125, 0.25, 0.375, 0.5]
        assert four.save()
        eight, calls = make_training(chosen(8)), []
        real_epoch = eight._epoch

        def epoch(number: int) -> bool:
            if number == 5:
                assert_equal(four, eight)
                calls.append(number)
            return real_epoch(number)

        eight._epoch = epoch  # type: ignore[method-assign]
        assert eight.run()
        assert calls == [5]
        further = make_training(chosen(8, **folder))
        assert further.resume()
        assert further.run()
        assert_equal(eight, further)
        alone = make_training(chosen(4, 4))
        assert alone.run()
        with pytest.raises(AssertionError):
            assert_equal(four, alone)

    def test_periodic(
        self,
        make_config: MakeConfig,
        make_training: MakeTraining,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """A run that is killed goes on from the end of an epoch, when checkpoints are due that often."""
        monkeypatch.setattr(checkpoint, "SAVE_SHARE", 0.0)
        chosen = make_config(checkpoint={"dir": str(tmp_path), "everySeconds": 0})
        assert make_training(chosen).run()
        again = make_training(chosen)
        assert again.resume()
        assert again.progress.epoch == chosen["epochs"]


@pytest.mark.slow
class TestDivergence:
    """Losses that are not finite."""

    def test_twice_in_a_row(self, make_config: MakeConfig, make_training: MakeTraining) -> None:
        """A learning rate of 100 with SGD ends after the second epoch without a finite loss."""
        training = make_training(
            make_config(
                workload={"model": "transformer", "dataset": "digits"},
                params={"lr": 100.0, "optimizer": "sgd", "epochs": 9, "batch_size": 64},
            )
        )
        with pytest.raises(DivergedError) as caught:
            training.run()
        assert caught.value.code is ExitCode.DIVERGED
        assert training.progress.epoch == 2
        assert not math.isfinite(training._result["train_loss"])

    def test_once_is_not_enough(self, make_config: MakeConfig, make_training: MakeTraining) -> None:
        """One epoch whose loss is not finite ends nothing, if the next one's is."""
        training = make_training(make_config())
        real, calls = training.evaluate, []

        def first_is_infinite(split: Any) -> tuple[float, float]:
            accuracy, loss = real(split)
            calls.append(loss)
            return accuracy, math.inf if len(calls) != 2 else loss

        training.evaluate = first_is_infinite  # type: ignore[method-assign]
        assert training.run()
        assert training.progress.broken == 1


def test_extras_change_the_training(make_config: MakeConfig, make_training: MakeTraining) -> None:
    """Every extra that shapes the training leads to other weights than its default."""
    plain = make_training(make_config(params={"epochs": 1, "optimizer": "sgd"}))
    assert plain.run()
    for name, value in (
        ("weight_decay", 0.5),
        ("momentum", 0.1),
        ("label_smoothing", 0.3),
        ("gradient_clip", 0.01),
        ("schedule", "cosine"),
        ("warmup", 0.5),
        ("precision", "bf16"),
        ("valid_fraction", 0.4),
    ):
        other = make_training(make_config(params={"epochs": 1, "optimizer": "sgd", name: value}))
        assert other.run()
        assert not torch.equal(plain.model.head.weight, other.model.head.weight), name


@pytest.mark.slow
@pytest.mark.parametrize("dataset", ["digits", TEXT])
@pytest.mark.parametrize("model", contract.BUILTIN_MODELS)
def test_bf16(
    make_config: MakeConfig, make_training: MakeTraining, model: str, dataset: str
) -> None:
    """Every model trains in bf16 too, on any CPU."""
    extras = {"precision": "bf16", "max_samples": 96, "max_length": 16, "width": 16}
    workload = {"model": model, "dataset": dataset, "extras": extras}
    training = make_training(make_config(workload=workload, params={"epochs": 1}))
    assert training.run()
    assert math.isfinite(training._result["val_loss"])


@pytest.mark.slow
@pytest.mark.skipif(not torch.cuda.is_available(), reason="GPU: none here")
class TestGpu:
    """What only a GPU shows."""

    @pytest.mark.parametrize("precision", ["fp32", "bf16"])
    def test_learns(self, make_config: MakeConfig, precision: str) -> None:
        """Digits are learnt on the GPU in both precisions, and its memory is reported."""
        from foretune_report import Reporter
        from foretune_trainer import data, loop
        from foretune_trainer.resources import Meter

        chosen = make_config(
            workload={"model": "cnn", "dataset": "digits"},
            params={"lr": 0.01, "epochs": 4, "precision": precision},
        )
        device, meter = loop.pick_device(), Meter(time.monotonic())
        training = loop.Training(
            chosen,
            data.load(chosen),
            device=device,
            reporter=Reporter({}),
            meter=meter,
            leave=lambda: False,
        )
        assert training.run()
        assert training.test() > 0.9
        assert meter.read(device)["gpu_mem_peak_bytes"] > 0


def test_trial_json_is_valid_for_the_tests() -> None:
    """The tests' own trial.json stays what the contract says."""
    assert set(trial_json()) >= {"version", "trial", "params", "objective", "workload", "seed"}
