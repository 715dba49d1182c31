"""KeyStatePolicy: behaviour cloning, some steps at once, that also foretells the next key state."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from flashmi_reg.errors import InputError

from .demonstrations import Demonstration

__all__ = ["CHUNK", "KeyStatePolicy", "coming_actions", "next_key_states", "train_policy"]

BATCH = 256
RATE = 1e-3
DECAY = 1e-4
NOISE = 0.1  # of the states' spread, so that small slips off the demonstrations are known
CHUNK = 16  # actions that are foretold at once; playing several of them spans pauses


class KeyStatePolicy(nn.Module):
    """The coming actions and the next key state from the present state.

    In the manner of CoTPC ("Chain-of-Thought Predictive Control", Jia et al., 2023): actions are
    predicted from what the network holds of the state *and* from the key state that it foretells.
    Without key states in training the same network is the plain cloning baseline.

    Args:
        states: width Q of the states.
        actions: width A of the actions.
        relative: how many actions are targets of the state's first coordinates, as those of joints
            are under position control; they are learned as distances from where the joints are.
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
        relative: int = 0,
        hidden: int = 256,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0) if generator is None else generator
        self.relative = relative
        with torch.random.fork_rng(devices=[]):  # layers first fill themselves from the global one
            self.trunk = nn.Sequential(
                nn.Linear(states, hidden), nn.GELU(), nn.Linear(hidden, hidden), nn.GELU()
            )
            self.key = nn.Linear(hidden, states)
            self.decide = nn.Sequential(
                nn.Linear(hidden + states, hidden), nn.GELU(), nn.Linear(hidden, CHUNK * actions)
            )
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
        """Coming actions (*, 16, A) and next key states (*, Q), standardised, of states (*, Q)."""
        return self.predict((states - self.mean) / self.spread)

    def predict(self, states: Tensor) -> tuple[Tensor, Tensor]:
        """As :meth:`forward`, of standardised states."""
        held = self.trunk(states)
        key = self.key(held)
        coming = self.decide(torch.cat([held, key], -1))
        return coming.unflatten(-1, (CHUNK, len(self.action_mean))), key

    @torch.no_grad()
    def act(self, states: Tensor) -> Tensor:
        """The coming 16 actions in the demonstrations' units, (*, 16, A), of states (*, Q)."""
        coming, _ = self.forward(states)
        coming = coming * self.action_spread + self.action_mean
        coming[..., : self.relative] += states[..., None, : self.relative]
        return coming


def coming_actions(demonstration: Demonstration, relative: int) -> Tensor:
    """The 16 actions from each time on, the last one repeated, shape (T, 16, A).

    The first `relative` of each are distances from the state's first coordinates.
    """
    last = len(demonstration.actions)
    times = (torch.arange(last)[:, None] + torch.arange(CHUNK)).clamp_max(last - 1)
    coming = demonstration.actions[times]
    coming[..., :relative] -= demonstration.states[:-1, None, :relative]
    return coming


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
    relative: int = 0,
    steps: int = 3000,
    weight: float = 1.0,
    seed: int = 0,
) -> KeyStatePolicy:
    """Clones demonstrations, with the next key state as an auxiliary target where given.

    Args:
        demonstrations: of one task.
        keys: times of each demonstration's key states, from `KeyStateExtractor.transform`; without
            them the plain baseline of the same size and budget is trained.
        relative: see :class:`KeyStatePolicy`; 7 for ManiSkill's `pd_joint_pos`, whose states begin
            with the joints' positions.
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
        >>> abs(policy.act(torch.tensor([0.5, 0.5]))[0].item() - 1) < 0.1
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
    if not 0 <= relative <= min(width, actions):
        raise InputError(
            f"`relative` must be within the widths {width} of states and {actions} of actions, "
            f"received {relative}."
        )
    policy = KeyStatePolicy(width, actions, relative=relative, generator=generator)
    x = torch.cat([d.states[:-1] for d in demonstrations])
    y = torch.cat([coming_actions(d, relative) for d in demonstrations])
    policy.mean, policy.spread = _scale(x)
    policy.action_mean, policy.action_spread = _scale(y.flatten(0, 1))
    x, y = (x - policy.mean) / policy.spread, (y - policy.action_mean) / policy.action_spread
    ahead = None
    if keys is not None:
        pairs = zip(demonstrations, keys, strict=True)
        ahead = (torch.cat([next_key_states(d, k) for d, k in pairs]) - policy.mean) / policy.spread
    optimizer = torch.optim.AdamW(policy.parameters(), lr=RATE, weight_decay=DECAY, fused=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        rows = torch.randint(len(x), (BATCH,), generator=generator)
        noise = NOISE * torch.randn(BATCH, width, generator=generator)
        coming, key = policy.predict(x[rows] + noise)
        loss = (coming - y[rows]).abs().mean()
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
