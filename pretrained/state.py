"""All that resuming a training run needs, as one safetensors file."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

__all__ = ["TrainingState", "load_state", "save_state"]

MOMENTS = ("exp_avg", "exp_avg_sq")


@dataclass
class TrainingState:
    """Model, Adam's moments, averaged weights and counters. Data follow from seed and step.

    Attributes:
        step: steps taken.
        seconds: time spent in all runs.
        skipped: steps whose gradient was not finite and that were left out.
        model: weights.
        average: exponential moving average of the weights.
        moments: Adam's moments, by parameter name.
    """

    step: int = 0
    seconds: float = 0.0
    skipped: int = 0
    model: dict[str, Tensor] = field(default_factory=dict)
    average: dict[str, Tensor] = field(default_factory=dict)
    moments: dict[str, dict[str, Tensor]] = field(default_factory=dict)

    @classmethod
    def start(cls, network: nn.Module) -> TrainingState:
        """The state before the first step."""
        weights = {name: tensor.clone() for name, tensor in network.state_dict().items()}
        return cls(model=weights, average={name: w.clone() for name, w in weights.items()})

    def restore(self, network: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        """Puts the state into a network and its Adam optimizer."""
        network.load_state_dict(self.model)
        self.average = {
            name: tensor.to(network.state_dict()[name].device)
            for name, tensor in self.average.items()
        }
        for name, parameter in network.named_parameters():
            # A parameter that the architecture does not use has no gradient, hence no moments.
            if name in self.moments:
                moments = {k: value.to(parameter.device) for k, value in self.moments[name].items()}
                # Adam counts the steps that it took, not those that were left out.
                taken = torch.tensor(float(self.step - self.skipped))
                optimizer.state[parameter] = {"step": taken, **moments}

    def capture(self, network: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        """Takes the state of a network and its Adam optimizer."""
        self.model = {
            name: tensor.detach().clone() for name, tensor in network.state_dict().items()
        }
        self.moments = {
            name: {key: optimizer.state[parameter][key] for key in MOMENTS}
            for name, parameter in network.named_parameters()
            if parameter in optimizer.state
        }

    @torch.no_grad()
    def update_average(self, network: nn.Module, decay: float) -> None:
        """Moves the averaged weights; early on the average is shorter."""
        decay = min(decay, (1 + self.step) / (10 + self.step))
        for name, tensor in network.state_dict().items():
            self.average[name].lerp_(tensor, 1 - decay)


def save_state(path: Path, state: TrainingState) -> None:
    """Writes the state; an older file is replaced in one move."""
    tensors = {f"model.{k}": v for k, v in state.model.items()}
    tensors |= {f"average.{k}": v for k, v in state.average.items()}
    for name, moments in state.moments.items():
        tensors |= {f"{key}.{name}": value for key, value in moments.items()}
    counters = {"step": state.step, "seconds": state.seconds, "skipped": state.skipped}
    partial = path.with_name(path.name + ".partial")
    save_file(
        {name: tensor.cpu().contiguous() for name, tensor in tensors.items()},
        partial,
        {"counters": json.dumps(counters)},
    )
    partial.replace(path)


def load_state(path: Path, state: TrainingState) -> None:
    """Reads what :func:`save_state` wrote into `state`."""
    with safe_open(path, framework="pt") as file:
        counters: dict[str, Any] = json.loads(file.metadata()["counters"])
        for key in file.keys():  # noqa: SIM118
            kind, name = key.split(".", 1)
            if kind in MOMENTS:
                state.moments.setdefault(name, {})[kind] = file.get_tensor(key)
            else:
                getattr(state, kind)[name] = file.get_tensor(key)
    state.step, state.seconds = counters["step"], counters["seconds"]
    state.skipped = counters["skipped"]
