"""KeyStatePolicy: behaviour cloning, some steps at once, that also foretells the key states."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from flashmi_reg.errors import InputError

from .demonstrations import Demonstration

__all__ = ["CHUNK", "KeyStatePolicy", "coming_actions", "train_policy"]

BATCH = 256
RATE = 3e-3
DECAY = 1e-4
NOISE = 0.03  # of the states' spread, so that small slips off the demonstrations are known
BLUR = 0.3  # the same where a coordinate is not to be trusted
CHUNK = 16  # actions that are foretold at once; playing several of them spans pauses
LEAST = 1e-3  # spread that a coordinate is measured by


class KeyStatePolicy(nn.Module):
    """The coming actions and all key states from the present state.

    In the manner of CoTPC ("Chain-of-Thought Predictive Control", Jia et al., 2023): actions are
    predicted from the state, the key states that the network foretells, and the way to each. All K
    are foretold at every state, so that the answer stays the same throughout an episode and does
    not hang on which of them is next. Beside them goes as much that no key state is asked of, for
    what else the actions need. Without key states in training the same network is the plain cloning
    baseline, and all that it passes on is its own.

    Args:
        states: width Q of the states.
        actions: width A of the actions.
        count: K, the number of key states.
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
        count: int = 2,
        relative: int = 0,
        hidden: int = 128,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0) if generator is None else generator
        self.relative = relative
        self.count = count
        passed = count + 1  # the key states, and what is left to the network
        self.shapes = (passed, states), (CHUNK, actions)
        with torch.random.fork_rng(devices=[]):  # layers first fill themselves from the global one
            self.kept = nn.Linear(states, passed * states)  # most of the scene stays as it is
            self.change = _network(states, hidden, passed * states, blocks=1)
            self.decide = _network((1 + 2 * passed) * states, hidden, CHUNK * actions, blocks=2)
        with torch.no_grad():
            for layer in self.modules():
                if isinstance(layer, nn.Linear):
                    bound = 1 / math.sqrt(layer.in_features)
                    layer.weight.uniform_(-bound, bound, generator=generator)
                    layer.bias.zero_()
        self.register_buffer("mean", torch.zeros(states))
        self.register_buffer("spread", torch.ones(states))
        self.register_buffer("action_mean", torch.zeros(CHUNK, actions))
        self.register_buffer("action_spread", torch.ones(CHUNK, actions))

    def forward(self, states: Tensor) -> tuple[Tensor, Tensor]:
        """Coming actions (*, 16, A) and key states (*, K, Q), standardised, of states (*, Q)."""
        return self.predict((states - self.mean) / self.spread)

    def predict(self, states: Tensor) -> tuple[Tensor, Tensor]:
        """What :meth:`forward` gives, from standardised states (*, Q)."""
        passed = (self.kept(states) + self.change(states)).unflatten(-1, self.shapes[0])
        ways = passed - states[..., None, :]
        coming = self.decide(torch.cat([states, passed.flatten(-2), ways.flatten(-2)], -1))
        return coming.unflatten(-1, self.shapes[1]), passed[..., : self.count, :]

    @torch.no_grad()
    def act(self, states: Tensor) -> Tensor:
        """The coming 16 actions in the demonstrations' units, (*, 16, A), of states (*, Q)."""
        coming, _ = self.forward(states)
        coming = coming * self.action_spread + self.action_mean
        coming[..., : self.relative] += states[..., None, : self.relative]
        return coming


class _Block(nn.Module):
    """A residual block."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.inner = nn.Sequential(
            nn.LayerNorm(hidden), nn.Linear(hidden, hidden), nn.SiLU(), nn.Linear(hidden, hidden)
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.inner(x)


def _network(inputs: int, hidden: int, outputs: int, *, blocks: int) -> nn.Sequential:
    within = [_Block(hidden) for _ in range(blocks)]
    ends = nn.LayerNorm(hidden), nn.Linear(hidden, outputs)
    return nn.Sequential(nn.Linear(inputs, hidden), *within, *ends)


def coming_actions(demonstration: Demonstration, relative: int) -> Tensor:
    """The 16 actions from each time on, the last one repeated, shape (T, 16, A).

    The first `relative` of each are distances from the state's first coordinates.
    """
    last = len(demonstration.actions)
    times = (torch.arange(last)[:, None] + torch.arange(CHUNK)).clamp_max(last - 1)
    coming = demonstration.actions[times]
    coming[..., :relative] -= demonstration.states[:-1, None, :relative]
    return coming


def train_policy(
    demonstrations: Sequence[Demonstration],
    keys: Sequence[Tensor] | None = None,
    *,
    count: int = 2,
    relative: int = 0,
    blurred: slice = slice(0),
    steps: int = 2000,
    seed: int = 0,
) -> KeyStatePolicy:
    """Clones demonstrations, with the key states as auxiliary targets where given.

    Args:
        demonstrations: of one task.
        keys: times of each demonstration's key states, from `KeyStateExtractor.transform`; without
            them the plain baseline of the same size and budget is trained.
        count: the number of key states.
        relative: see :class:`KeyStatePolicy`; 7 for ManiSkill's `pd_joint_pos`, whose states begin
            with the joints' positions.
        blurred: coordinates that are learned with ten times the noise, such as velocities: an arm
            that stands still for once, where none did in the demonstrations, is to move on all the
            same ("Causal Confusion in Imitation Learning", de Haan et al., 2019).
        steps: of Adam, with batches of 256 states.
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
    (width, actions), *_ = widths
    if not 0 <= relative <= min(width, actions):
        raise InputError(
            f"`relative` must be within the widths {width} of states and {actions} of actions, "
            f"received {relative}."
        )
    generator = torch.Generator().manual_seed(seed)
    policy = KeyStatePolicy(width, actions, count=count, relative=relative, generator=generator)
    x = torch.cat([d.states[:-1] for d in demonstrations])
    y = torch.cat([coming_actions(d, relative) for d in demonstrations])
    policy.mean, policy.spread = _scale(x)
    policy.action_mean, policy.action_spread = _scale(y)
    x, y = (x - policy.mean) / policy.spread, (y - policy.action_mean) / policy.action_spread
    targets = None
    if keys is not None:
        targets = (_key_states(demonstrations, keys, count) - policy.mean) / policy.spread
    episode = torch.cat([torch.full((len(d) - 1,), i) for i, d in enumerate(demonstrations)])
    # Where noise moves the joints, their targets stay where they are.
    moved = policy.spread[:relative] / policy.action_spread[:, :relative]
    sizes = torch.full((width,), NOISE)
    sizes[blurred] = BLUR
    optimizer = torch.optim.AdamW(policy.parameters(), lr=RATE, weight_decay=DECAY, fused=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        rows = torch.randint(len(x), (BATCH,), generator=generator)
        noise = sizes * torch.randn(BATCH, width, generator=generator)
        states, wanted = x[rows] + noise, y[rows]
        wanted[..., :relative] -= noise[:, None, :relative] * moved
        coming, foretold = policy.predict(states)
        loss = (coming - wanted).abs().mean()
        if targets is not None:
            loss = loss + (foretold - targets[episode[rows]]).abs().mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
    return policy.eval()


def _key_states(
    demonstrations: Sequence[Demonstration], keys: Sequence[Tensor], count: int
) -> Tensor:
    """The key states of each demonstration, shape (demonstrations, K, Q)."""
    if len(keys) != len(demonstrations):
        raise InputError(
            f"`keys` holds {len(keys)} entries for {len(demonstrations)} demonstrations."
        )
    for demonstration, times in zip(demonstrations, keys, strict=True):
        last = len(demonstration) - 1
        if times.shape != (count,) or int(times[-1]) != last or bool((times.diff() <= 0).any()):
            raise InputError(
                f"`keys` must be {count} times that ascend and end at {last}, the demonstration's "
                f"last state, received {times.tolist()}."
            )
    return torch.stack([d.states[k] for d, k in zip(demonstrations, keys, strict=True)])


def _scale(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and spread over the first dimension; what hardly changes is not blown up."""
    return x.mean(0), x.std(0).clamp_min(LEAST)
