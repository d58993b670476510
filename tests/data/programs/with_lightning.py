"""A textbook Lightning program that knows nothing of Foretune."""

import sys

import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader, TensorDataset


class Net(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(8, 2)

    def training_step(self, batch, index):
        x, y = batch
        loss = torch.nn.functional.cross_entropy(self.layer(x), y)
        self.log("train_loss", loss, on_epoch=True, on_step=False)
        return loss

    def validation_step(self, batch, index):
        x, y = batch
        out = self.layer(x)
        self.log("val_loss", torch.nn.functional.cross_entropy(out, y))
        self.log("accuracy", (out.argmax(1) == y).float().mean())

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


torch.manual_seed(0)
x = torch.randn(256, 8)
y = (x[:, 0] > 0).long()
trainer = pl.Trainer(
    max_epochs=int(sys.argv[1]),
    logger=False,
    enable_checkpointing=False,
    enable_progress_bar=False,
    enable_model_summary=False,
    accelerator="cpu",
)
loader = DataLoader(TensorDataset(x, y), 64)
trainer.fit(Net(), loader, loader)
print("accuracy", float(trainer.callback_metrics["accuracy"]), "epochs", trainer.current_epoch)
