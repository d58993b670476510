"""One measurement of `foretune_trainer.bench`: a small BERT in the Trainer of transformers.

`python -m foretune_trainer.bench_hf SECONDS cuda|cpu` prints a line of JSON. Needs transformers and accelerate.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from typing import Any, Final

BATCH: Final = 64

WARM_UP: Final = 20
"""Steps that are not measured on a GPU; on a CPU two."""


def main() -> int:
    """Train for some seconds and print the figures."""
    started, seconds, cuda = time.monotonic(), float(sys.argv[1]), sys.argv[2] == "cuda"
    import torch  # noqa: PLC0415 - the clock runs from before it
    from transformers import Trainer, TrainerCallback, TrainingArguments  # noqa: PLC0415 - as above
    from transformers.models.bert import (  # noqa: PLC0415 - as above
        BertConfig,
        BertForSequenceClassification,
    )

    from foretune_trainer.bench import VOCABULARY, made  # noqa: PLC0415 - as above

    def now() -> float:
        if cuda:
            torch.cuda.synchronize()
        return time.monotonic()

    class Clock(TrainerCallback):  # type: ignore[misc]
        """Looks at the clock: after the first step, after warming up, and at the end."""

        first = begin = end = 0.0
        steps = 0

        def on_step_end(self, args: Any, state: Any, control: Any, **more: Any) -> None:
            """Count a step; only the three that matter wait for the device."""
            del args, more
            if state.global_step == 1:
                self.first = now()
            if state.global_step == (WARM_UP if cuda else 2):
                self.begin = now()
            elif self.begin and time.monotonic() - self.begin >= seconds:
                self.end, self.steps = now(), state.global_step - (WARM_UP if cuda else 2)
                control.should_training_stop = True

    loaded = made("imdb")
    rows = [
        {"input_ids": ids, "attention_mask": (ids != 0).long(), "labels": label}
        for ids, label in zip(
            torch.from_numpy(loaded.train.inputs).long(),
            torch.from_numpy(loaded.train.labels),
            strict=True,
        )
    ]
    # The built-in BERT's default size.
    size: dict[str, int] = {"hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 8}
    model = BertForSequenceClassification(
        BertConfig(vocab_size=VOCABULARY, intermediate_size=512, num_labels=2, **size)
    )
    clock = Clock()
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            per_device_train_batch_size=BATCH,
            max_steps=1_000_000,
            learning_rate=1e-3,
            bf16=True,
            use_cpu=not cuda,
            report_to="none",
            logging_strategy="no",
            save_strategy="no",
            disable_tqdm=True,
        )
        Trainer(model=model, args=arguments, train_dataset=rows, callbacks=[clock]).train()
    wall = clock.end - clock.begin
    found = {
        "steps": clock.steps,
        "ms_median": round(1000 * wall / clock.steps, 4),
        "note": "ms_median is the mean here",
        "samples_per_s": round(clock.steps * BATCH / wall, 1),
        "first_step_s": round(clock.first - started, 3),
    }
    if cuda:
        found["mib"] = round(torch.cuda.max_memory_allocated() / 2**20, 1)
    print(json.dumps(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
