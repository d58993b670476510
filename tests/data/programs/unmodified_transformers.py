"""A textbook program with the Trainer of transformers that knows nothing of Foretune."""

import argparse
import tempfile
import time

import numpy as np
import torch
from transformers import Trainer, TrainingArguments

arguments = argparse.ArgumentParser()
arguments.add_argument("--learning_rate", type=float, default=0.1)
arguments.add_argument("--epochs", type=int, default=3)
arguments.add_argument("--seconds", type=float, default=0.0, help="that an evaluation takes")
arguments.add_argument("--logging_steps", type=int, default=500)
arguments = arguments.parse_args()


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
    time.sleep(arguments.seconds)
    return {"accuracy": float(np.mean(found.predictions.argmax(-1) == found.label_ids))}


trainer = Trainer(
    Net(),
    TrainingArguments(
        output_dir=tempfile.mkdtemp(),
        num_train_epochs=arguments.epochs,
        per_device_train_batch_size=32,
        learning_rate=arguments.learning_rate,
        eval_strategy="epoch",
        logging_steps=arguments.logging_steps,
        save_strategy="no",
        report_to="none",
        use_cpu=True,
    ),
    train_dataset=rows,
    eval_dataset=rows,
    compute_metrics=accuracy,
)
trainer.train()
