"""KeyStatePolicy: behaviour cloning that also foretells the next key state."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from flashmi_reg.errors import InputError

from .demonstrations import Demonstration

__all__ = ["KeyStatePolicy", "next_key_states", "train_policy"]

BATCH = 256
RATE = 1e-3
DECAY = 1e-4
NOISE = 0.02  # of the states' spread, so that small slips off the demonstrations are known


class KeyStatePolicy(nn.Module):
    """Action and next key state from the present state.

    In the manner of CoTPC ("Chain-of-Thought Predictive Control", Jia et al., 2023): the action is
    predicted from what the network holds of the state *and* from the key state that it foretells.
    Without key states in training the same network is the plain cloning baseline.

    Args:
        states: width Q of the states.
        actions: width A of the actions.
        hidden: width of the hidden layers.
        generator: the source of the initial weights; by default one of a fixed seed.
    """

    mean: Tensor
    spread: Tensor
    action_mean: Tensor
    action_spread: Tensor

    def __init__(
        self,
        states: int,
        actions: int,
        *,
        hidden: int = 256,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0) if generator is None else generator
        with torch.random.fork_rng(devices=[]):  # layers first fill themselves from the global one
            self.trunk = nn.Sequential(
                nn.Linear(states, hidden), nn.GELU(), nn.Linear(hidden, hidden), nn.GELU()
            )
            self.key = nn.Linear(hidden, states)
            self.decide = nn.Sequential(
                nn.Linear(hidden + states, hidden), nn.GELU(), nn.Linear(hidden, actions)
            )
            self.straight = nn.Linear(states, actions)
        with torch.no_grad():
            for layer in self.modules():
                if isinstance(layer, nn.Linear):
                    bound = 1 / math.sqrt(layer.in_features)
                    layer.weight.uniform_(-bound, bound, generator=generator)
                    layer.bias.zero_()
        for name, width in (("", states), ("action_", actions)):
            self.register_buffer(f"{name}mean", torch.zeros(width))
            self.register_buffer(f"{name}spread", torch.ones(width))

    def forward(self, states: Tensor) -> tuple[Tensor, Tensor]:
        """Actions (*, A) and next key states (*, Q), both standardised, of states (*, Q)."""
        states = (states - self.mean) / self.spread
        return self.predict(states)

    def predict(self, states: Tensor) -> tuple[Tensor, Tensor]:
        """As :meth:`forward`, of standardised states."""
        held = self.trunk(states)
        key = self.key(held)
        return self.straight(states) + self.decide(torch.cat([held, key], -1)), key

    @torch.no_grad()
    def act(self, states: Tensor) -> Tensor:
        """Actions in the demonstrations' units, shape (*, A), of states (*, Q)."""
        action, _ = self.forward(states)
        return action * self.action_spread + self.action_mean


def next_key_states(demonstration: Demonstration, keys: Tensor) -> Tensor:
    """The key state that lies ahead of each state with an action, shape (T, Q).

    Args:
        demonstration: of T actions.
        keys: ascending times of its key states, the last of them T, shape (K,).

    Raises:
        InputError: the times are not those of key states of this demonstration.
    """
    last = len(demonstration) - 1
    if keys.ndim != 1 or len(keys) == 0 or int(keys[-1]) != last or bool((keys.diff() <= 0).any()):
        raise InputError(
            f"`keys` must ascend and end at {last}, the demonstration's last state, received "
            f"{keys.tolist()}."
        )
    ahead = torch.searchsorted(keys, torch.arange(last), right=True)
    return demonstration.states[keys[ahead]]


def train_policy(
    demonstrations: Sequence[Demonstration],
    keys: Sequence[Tensor] | None = None,
    *,
    steps: int = 3000,
    weight: float = 1.0,
    seed: int = 0,
) -> KeyStatePolicy:
    """Clones demonstrations, with the next key state as an auxiliary target where given.

    Args:
        demonstrations: of one task.
        keys: times of each demonstration's key states, from `KeyStateExtractor.transform`; without
            them the plain baseline of the same size and budget is trained.
        steps: of Adam, with batches of 256 states.
        weight: of the auxiliary error.
        seed: of the initial weights, the batches and the noise.

    Raises:
        InputError: there are no demonstrations, their widths differ, or `keys` do not fit them.

    Example:
        >>> import torch
        >>> from flashmi_reg.integrations.maniskill import Demonstration
        >>> from flashmi_reg.integrations.maniskill.policy import train_policy
        >>> states = torch.linspace(0, 1, 21)[:, None].repeat(1, 2)
        >>> demo = Demonstration(states, 2 * states[:-1, :1], seed=0)
        >>> policy = train_policy([demo], [torch.tensor([10, 20])], steps=200)
        >>> abs(policy.act(torch.tensor([0.5, 0.5])).item() - 1) < 0.1
        True
    """
    widths = {(d.states.shape[1], d.actions.shape[1]) for d in demonstrations}
    if len(widths) != 1:
        raise InputError(
            "`demonstrations` must hold one or more of equal widths, received widths "
            f"{sorted(widths)}."
        )
    if keys is not None and len(keys) != len(demonstrations):
        raise InputError(
            f"`keys` holds {len(keys)} entries for {len(demonstrations)} demonstrations."
        )
    generator = torch.Generator().manual_seed(seed)
    (width, actions), *_ = widths
    policy = KeyStatePolicy(width, actions, generator=generator)
    x = torch.cat([d.states[:-1] for d in demonstrations])
    y = torch.cat([d.actions for d in demonstrations])
    policy.mean, policy.spread = _scale(x)
    policy.action_mean, policy.action_spread = _scale(y)
    x, y = (x - policy.mean) / policy.spread, (y - policy.action_mean) / policy.action_spread
    ahead = None
    if keys is not None:
        pairs = zip(demonstrations, keys, strict=True)
        ahead = (torch.cat([next_key_states(d, k) for d, k in pairs]) - policy.mean) / policy.spread
    optimizer = torch.optim.AdamW(policy.parameters(), lr=RATE, weight_decay=DECAY)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        rows = torch.randint(len(x), (BATCH,), generator=generator)
        noise = NOISE * torch.randn(BATCH, width, generator=generator)
        action, key = policy.predict(x[rows] + noise)
        loss = (action - y[rows]).abs().mean()
        if ahead is not None:
            loss = loss + weight * (key - ahead[rows]).abs().mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
    return policy.eval()


def _scale(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and spread; a coordinate that never changes has spread one."""
    spread = x.std(0)
    return x.mean(0), spread.masked_fill(spread < 1e-6, 1.0)
