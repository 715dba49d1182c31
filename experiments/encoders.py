"""Encoders beside which the cost of a loss is measured: an MLP, a small CNN and a ResNet-18."""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["ENCODERS", "IMAGE", "BasicBlock", "make_cnn", "make_mlp", "make_resnet18"]

IMAGE = (3, 32, 32)
CLASSES = 10


def make_mlp(width: int = 10) -> nn.Module:
    """Three hidden layers of 1,024 on flat images, `width` wide before its last layer."""
    layers: list[nn.Module] = [nn.Flatten()]
    size = IMAGE[0] * IMAGE[1] * IMAGE[2]
    for _ in range(3):
        layers += [nn.Linear(size, 1024), nn.BatchNorm1d(1024), nn.ReLU()]
        size = 1024
    return nn.Sequential(*layers, nn.Linear(size, width), nn.Linear(width, CLASSES))


def make_cnn(width: int = 10) -> nn.Module:
    """Convolutional classifier of 32 × 32 colour images, `width` wide before its last layer."""
    layers: list[nn.Module] = []
    for before, after in ((IMAGE[0], 32), (32, 64), (64, 128)):
        convolution = nn.Conv2d(before, after, 3, padding=1)
        layers += [convolution, nn.BatchNorm2d(after), nn.ReLU(), nn.MaxPool2d(2)]
    layers += [nn.Flatten(), nn.Linear(128 * 4 * 4, 128), nn.ReLU(), nn.Linear(128, width)]
    return nn.Sequential(*layers, nn.Linear(width, CLASSES))


class BasicBlock(nn.Module):
    """Two 3 × 3 convolutions beside a shortcut ("Deep Residual Learning", He et al., 2016).

    Args:
        before: channels that come in.
        after: channels that go out.
        stride: of the first convolution.
    """

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.path = nn.Sequential(
            nn.Conv2d(before, after, 3, stride, 1, bias=False),
            nn.BatchNorm2d(after),
            nn.ReLU(inplace=True),
            nn.Conv2d(after, after, 3, 1, 1, bias=False),
            nn.BatchNorm2d(after),
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or before != after:
            convolution = nn.Conv2d(before, after, 1, stride, bias=False)
            self.shortcut = nn.Sequential(convolution, nn.BatchNorm2d(after))

    def forward(self, x: Tensor) -> Tensor:
        """Feature maps (n, before, h, w) to (n, after, h/stride, w/stride)."""
        return torch.relu(self.path(x) + self.shortcut(x))


def make_resnet18(width: int = 10) -> nn.Module:
    """ResNet-18 as it is used on 32 × 32 images: a 3 × 3 stem and no pooling after it."""
    layers: list[nn.Module] = [
        nn.Conv2d(IMAGE[0], 64, 3, 1, 1, bias=False),
        nn.BatchNorm2d(64),
        nn.ReLU(inplace=True),
    ]
    before = 64
    for after, stride in ((64, 1), (128, 2), (256, 2), (512, 2)):
        layers += [BasicBlock(before, after, stride), BasicBlock(after, after, 1)]
        before = after
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, width)]
    return nn.Sequential(*layers, nn.Linear(width, CLASSES))


ENCODERS = {
    "MLP, 3 × 1,024": make_mlp,
    "CNN, three convolutions": make_cnn,
    "ResNet-18": make_resnet18,
}
