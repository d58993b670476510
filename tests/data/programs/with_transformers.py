"""A textbook program with the Trainer of transformers, and one line more: the callback."""

import sys

import numpy as np
import torch
from transformers import Trainer, TrainingArguments

import foretune_report.hf


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(8, 2)

    def forward(self, x, labels):
        out = self.layer(x)
        return {"loss": torch.nn.functional.cross_entropy(out, labels), "logits": out}


torch.manual_seed(0)
inputs = torch.randn(128, 8)
rows = [{"x": row, "labels": int(row[0] > 0)} for row in inputs]


def accuracy(found):
    return {"accuracy": float(np.mean(found.predictions.argmax(-1) == found.label_ids))}


trainer = Trainer(
    Net(),
    TrainingArguments(
        output_dir=sys.argv[2],
        num_train_epochs=int(sys.argv[1]),
        per_device_train_batch_size=32,
        learning_rate=0.1,
        eval_strategy="epoch",
        logging_strategy="epoch",
        save_strategy="no",
        report_to="none",
        use_cpu=True,
        disable_tqdm=True,
    ),
    train_dataset=rows,
    eval_dataset=rows,
    compute_metrics=accuracy,
    callbacks=[foretune_report.hf.Callback()],
)
trainer.train()
print("steps", trainer.state.global_step)
