"""To paste: what a layer knows. `python -m flashmi_reg.integrations.lightning_example` runs it."""
# ruff: noqa: D101, D102

import torch
from lightning.pytorch import LightningModule, Trainer
from sklearn.datasets import load_digits
from torch.nn import Linear, ReLU, Sequential, functional
from torch.utils.data import DataLoader, TensorDataset, random_split

from flashmi_reg.integrations.lightning import InformationPlaneCallback


class Classifier(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = Sequential(Linear(64, 32), ReLU(), Linear(32, 4))
        self.head = Sequential(ReLU(), Linear(4, 10))

    def training_step(self, batch: list[torch.Tensor], index: int) -> torch.Tensor:
        return functional.cross_entropy(self.head(self.encoder(batch[0])), batch[1])

    validation_step = training_step

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=3e-3)


if __name__ == "__main__":
    images, digits = load_digits(return_X_y=True)
    data = TensorDataset(torch.tensor(images / 16).float(), torch.tensor(digits))
    train, val = (DataLoader(part, batch_size=64) for part in random_split(data, [0.7, 0.3]))
    plane = InformationPlaneCallback(["encoder"], every_n_epochs=5, figure="digits.png")
    Trainer(max_epochs=10, callbacks=[plane], log_every_n_steps=5).fit(Classifier(), train, val)
    print(f"I(z; y) = {plane.points[-1].value:.2f} nats; figure: digits.png")
