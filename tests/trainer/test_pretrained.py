"""A pretrained BERT: its weights, its word pieces, and what can be wrong with it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from tests.support.trials import trial_json

from foretune.contract import ExitCode
from foretune_trainer import config
from foretune_trainer.errors import PreemptedError, TrainerError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from foretune_trainer.loop import Training

    MakeTraining = Callable[..., Training]

PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "good", "bad", "film", "##s", "a", "the"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT of three layers with its vocabulary, as the hub lays it out, and a data set of texts."""
    from transformers.models.bert import BertConfig, BertModel

    found = tmp_path_factory.mktemp("bert")
    torch.manual_seed(5)
    settings = BertConfig(
        vocab_size=len(PIECES),
        hidden_size=32,
        num_hidden_layers=3,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=32,
    )
    BertModel(settings).save_pretrained(found)
    (found / "vocab.txt").write_text("\n".join(PIECES) + "\n")
    labels = [n % 2 for n in range(80)]
    texts = [f"the {('bad', 'good')[label]} films" for label in labels]
    for name in ("train", "validation"):
        pq.write_table(pa.table({"text": texts, "label": labels}), found / f"{name}.parquet")
    return found


def chosen(folder: Path, checkpoint: Path | None = None, **params: Any) -> config.TrialConfig:
    values = {"lr": 0.003, "epochs": 4, "layers": 2, "batch_size": 8, "max_length": 16}
    raw = trial_json(
        workload={"model": "bert", "dataset": "sst2", "path": str(folder)},
        params={**values, "pretrained": str(folder), **params},
        checkpoint={} if checkpoint is None else {"dir": str(checkpoint)},
    )
    return config.parse(raw, {})


@pytest.mark.slow
class TestPretrained:
    """Weights from a folder, without network."""

    def test_starts_from_its_weights(self, make_training: MakeTraining, folder: Path) -> None:
        """The first layers are the model's, two of three, the frozen one stays, and texts are learnt."""
        from transformers.models.bert import BertModel

        origin = BertModel.from_pretrained(folder)
        training = make_training(chosen(folder, frozen_layers=1))
        encoder = training.model.encoder
        assert len(encoder.encoder.layer) == 2
        kept = {name: value.clone() for name, value in encoder.state_dict().items()}
        for name, value in kept.items():
            assert torch.equal(value, origin.state_dict()[name]), name
        assert training.run()
        assert training.test() == 1.0
        same = {n for n, value in encoder.state_dict().items() if torch.equal(value, kept[n])}
        frozen = {n for n in kept if n.startswith(("embeddings.", "encoder.layer.0."))}
        assert same == frozen

    def test_resume(self, make_training: MakeTraining, folder: Path, tmp_path: Path) -> None:
        """A cut-off run ends with the weights of one that was not cut off."""
        whole = make_training(chosen(folder))
        assert whole.run()
        steps = iter(range(5))
        first = make_training(chosen(folder, tmp_path), lambda: next(steps, None) is None)
        with pytest.raises(PreemptedError):
            first.run()
        second = make_training(chosen(folder, tmp_path))
        assert second.resume()
        assert second.run()
        left, right = whole.model.state_dict(), second.model.state_dict()
        assert all(torch.equal(left[name], right[name]) for name in left)

    def test_images(self, make_training: MakeTraining, folder: Path) -> None:
        """The same weights take the patches of an image."""
        raw = trial_json(
            workload={"model": "bert", "dataset": "digits"},
            params={"pretrained": str(folder), "epochs": 1, "max_samples": 100, "max_length": 16},
        )
        assert make_training(config.parse(raw, {})).run()

    @pytest.mark.parametrize(
        ("changes", "code", "said"),
        [
            ({"layers": 4}, ExitCode.BAD_CONFIG, "params.layers: must be at most 3"),
            ({"max_length": 33}, ExitCode.BAD_EXTRA, "max_length: must be at most 32"),
        ],
    )
    def test_too_much(
        self,
        make_training: MakeTraining,
        folder: Path,
        changes: dict[str, Any],
        code: ExitCode,
        said: str,
    ) -> None:
        """More layers or longer texts than the model has are refused by name."""
        with pytest.raises(TrainerError, match=said) as caught:
            make_training(chosen(folder, **changes))
        assert caught.value.code is code

    @pytest.mark.parametrize(
        ("damage", "code"),
        [
            ("absent", ExitCode.DATA_UNREACHABLE),
            ("no weights", ExitCode.DATA_UNREACHABLE),
            ("torn weights", ExitCode.BAD_EXTRA),
            ("no bert", ExitCode.BAD_EXTRA),
            ("a pickle", ExitCode.BAD_EXTRA),
        ],
    )
    def test_of_no_use(
        self,
        make_training: MakeTraining,
        folder: Path,
        tmp_path: Path,
        damage: str,
        code: ExitCode,
    ) -> None:
        """What is not there ends with 74, what is no BERT or damaged with 78; no code is run."""
        other = tmp_path / "model"
        if damage != "absent":
            other.mkdir()
            for name in ("config.json", "vocab.txt", "model.safetensors"):
                (other / name).write_bytes((folder / name).read_bytes())
        weights = other / "model.safetensors"
        if damage == "torn weights":
            weights.write_bytes(weights.read_bytes()[:200])
        if damage in ("no weights", "a pickle"):
            weights.unlink()
        if damage == "a pickle":
            pickled = {"embeddings.word_embeddings.weight": _Evil(tmp_path / "pwned")}
            torch.save(pickled, other / "pytorch_model.bin")
        if damage == "no bert":
            settings = json.loads((other / "config.json").read_text())
            (other / "config.json").write_text(json.dumps({**settings, "model_type": "distilbert"}))
        with pytest.raises(TrainerError, match=r"extras\.pretrained: ") as caught:
            make_training(chosen(folder, pretrained=str(other)))
        assert caught.value.code is code, caught.value
        assert "\n" not in str(caught.value)
        assert not (tmp_path / "pwned").exists()


class _Evil:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (__import__("pathlib").Path.touch, (self.path,))
