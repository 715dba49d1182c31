"""KeyStatePolicy: behaviour cloning from key state to key state."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

from flashmi_reg.errors import InputError

from .demonstrations import Demonstration
from .foretelling import GaussianProcess
from .stages import (
    CHUNK,
    PATIENCE,
    PLAYED,
    distance,
    goals_of,
    lessons_of,
    reach_of,
    rests_of,
    stage_lengths,
)

__all__ = ["Episode", "KeyStatePolicy", "train_policy"]

BATCH = 256
RATE = 3e-3
DECAY = 1e-4
NOISE = 0.02  # of the states' spread, so that small slips off the demonstrations are known
BLUR = 0.3  # the same where a coordinate is not to be trusted
LEAST = 1e-3  # spread that a coordinate is measured by
FORETOLD = 0.25  # share of the steps in which key states alone are learned
EXACT = 0.1  # error of foretold rests, as a share of their spread, up to which they are aimed at
STAGE = 2.0  # how strongly the stage is told, in units of the states' spread


class KeyStatePolicy(nn.Module):
    """The coming actions from the present state, the stage, and all key states.

    In the manner of CoTPC ("Chain-of-Thought Predictive Control", Jia et al., 2023): actions are
    predicted from the state, the key states that the network foretells, and the way to each. All K
    are foretold at every state; beside them goes as much that no key state is asked of.

    Key states also divide an episode into stages, as the initiation and termination of an option do
    ("Between MDPs and semi-MDPs", Sutton, Precup & Singh, 1999). In each, the arm goes to the state
    just before the key state, its goal, and stays there until it is reached, that is, until the
    state lies as near to the one foretold as those of the demonstrations did; see
    :class:`Episode`, which keeps count. So a gripper does not close or open on the way. What is
    foretold no better from the goal than some steps before it does not divide.

    A network of a few hundred goals learns them by heart and foretells new ones to some
    millimetres. Where the arm is to rest at each is therefore foretold a second time, once, from
    the first state of an episode and by a :class:`.GaussianProcess`, and is aimed at where that
    proved exact on demonstrations left out.

    Without key states in training the same network is the plain cloning baseline, in one stage.

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
    error: Tensor
    limit: Tensor
    divides: Tensor
    exact: Tensor
    patience: Tensor

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
        seen = (1 + 2 * passed) * states + count
        with torch.random.fork_rng(devices=[]):  # layers first fill themselves from the global one
            self.kept = nn.Linear(states, passed * states)  # most of the scene stays as it is
            self.change = _network(states, hidden, passed * states, blocks=1)
            self.decide = _network(seen, hidden, CHUNK * actions, blocks=2)
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
        self.register_buffer("error", torch.ones(count - 1, states))
        self.register_buffer("limit", torch.zeros(count - 1))
        self.register_buffer("divides", torch.zeros(count - 1, dtype=torch.bool))
        self.register_buffer("exact", torch.zeros(count - 1, dtype=torch.bool))
        self.register_buffer("patience", torch.zeros(count - 1))
        self.rests = nn.ModuleList()  # of Gaussian processes, one a searched key state

    @property
    def goals(self) -> list[int]:
        """Which of the K key states end the stages, the last of which is always K − 1."""
        return [*self.divides.nonzero()[:, 0].tolist(), self.count - 1]

    def forward(self, states: Tensor, stage: Tensor) -> tuple[Tensor, Tensor]:
        """Coming actions (*, 16, A) and key states (*, K, Q), standardised.

        Args:
            states: standardised, shape (*, Q).
            stage: integers, shape (*).
        """
        passed = self._passed(states)
        ways = passed - states[..., None, :]
        told = STAGE * one_hot(stage, self.count).to(states.dtype)
        coming = self.decide(torch.cat([states, passed.flatten(-2), ways.flatten(-2), told], -1))
        return coming.unflatten(-1, self.shapes[1]), passed[..., : self.count, :]

    def foretell(self, states: Tensor) -> Tensor:
        """The key states, (*, K, Q), of states (*, Q), all standardised."""
        return self._passed(states)[..., : self.count, :]

    @torch.no_grad()
    def act(self, states: Tensor, stage: Tensor | None = None) -> Tensor:
        """The coming 16 actions in the demonstrations' units, (*, 16, A).

        Args:
            states: shape (*, Q).
            stage: integers, shape (*); by default the last one, which no key state keeps back.
        """
        if stage is None:
            stage = torch.full(states.shape[:-1], len(self.goals) - 1)
        coming, _ = self.forward(self._standardised(states), stage)
        coming = coming * self.action_spread + self.action_mean
        coming[..., : self.relative] += states[..., None, : self.relative]
        return coming

    @torch.no_grad()
    def reached(self, states: Tensor, stage: int) -> Tensor:
        """Whether states (*, Q) are at the goal of a stage but the last; shape (*)."""
        goal, states = self.goals[stage], self._standardised(states)
        gap = states - self.foretell(states)[..., goal, :]
        return distance(gap, self.error[goal]) <= self.limit[goal]

    @torch.no_grad()
    def rest(self, state: Tensor, goal: int) -> Tensor:
        """Targets that rest the arm at a goal, (relative,), from the first state of an episode."""
        return self.rests[goal](self._standardised(state))

    def _standardised(self, states: Tensor) -> Tensor:
        return (states - self.mean) / self.spread

    def _passed(self, states: Tensor) -> Tensor:
        """What the actions are decided by beside the state, (*, K + 1, Q)."""
        return (self.kept(states) + self.change(states)).unflatten(-1, self.shapes[0])


class Episode:
    """One episode of a policy; it remembers its first state and the stage.

    A stage ends where its goal is reached, or where it takes a third longer than it usually did in
    the demonstrations. Where it is foretold exactly how the arm rests at the goal, more so than the
    network decides, the arm is then sent there: for as long as a plan is played, to come to rest,
    and once more as the next stage begins, to be still where a gripper closes or opens.

    Args:
        policy: a trained one.
    """

    def __init__(self, policy: KeyStatePolicy) -> None:
        self.policy = policy
        self.stage = 0
        self._since = 0
        self._first: Tensor | None = None
        self._resting = False

    def act(self, state: Tensor) -> Tensor:
        """The 8 actions to play before asking again, shape (8, A), of the state (Q,)."""
        self._first = state if self._first is None else self._first
        goals, held = self.policy.goals, None
        if self._resting:
            held, self._resting = goals[self.stage], False
            self._advance()
        while held is None and self._ends(state):
            if bool(self.policy.exact[goals[self.stage]]):
                held, self._resting = goals[self.stage], True
            else:
                self._advance()
        self._since += PLAYED
        actions = self.policy.act(state, torch.tensor(self.stage))[:PLAYED]
        if held is not None:
            actions[:, : self.policy.relative] = self.policy.rest(self._first, held)
        return actions

    def _advance(self) -> None:
        self.stage, self._since = self.stage + 1, 0

    def _ends(self, state: Tensor) -> bool:
        """Whether the stage does, in this state."""
        goals = self.policy.goals
        if self.stage == len(goals) - 1:
            return False
        tired = self._since >= float(self.policy.patience[goals[self.stage]])
        return tired or bool(self.policy.reached(state, self.stage))


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


def train_policy(
    demonstrations: Sequence[Demonstration],
    keys: Sequence[Tensor] | None = None,
    *,
    count: int = 2,
    relative: int = 0,
    blurred: slice = slice(0),
    steps: int = 6000,
    seed: int = 0,
) -> KeyStatePolicy:
    """Clones demonstrations, from key state to key state where they are given.

    Args:
        demonstrations: of one task.
        keys: times of each demonstration's key states, from `KeyStateExtractor.transform`; without
            them the plain baseline of the same size and budget is trained.
        count: the number of key states.
        relative: see :class:`KeyStatePolicy`; 7 for ManiSkill's `pd_joint_pos`, whose states begin
            with the joints' positions.
        blurred: coordinates that are learned with fifteen times the noise, such as velocities: an
            arm that stands still for once, where none did in the demonstrations, is to move on all
            the same ("Causal Confusion in Imitation Learning", de Haan et al., 2019). Whether a key
            state is reached does not hang on them.
        steps: of Adam, with batches of 256 states; with key states, a quarter of them teaches to
            foretell these alone.
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
    width, actions = _widths(demonstrations, relative)
    generator = torch.Generator().manual_seed(seed)
    policy = KeyStatePolicy(width, actions, count=count, relative=relative, generator=generator)
    policy.mean, policy.spread = _scale(torch.cat([d.states[:-1] for d in demonstrations]))
    standardised = [(d.states - policy.mean) / policy.spread for d in demonstrations]
    x = torch.cat([s[:-1] for s in standardised])
    episode = torch.cat([torch.full((len(d) - 1,), i) for i, d in enumerate(demonstrations)])
    noise = torch.full((width,), NOISE)
    noise[blurred] = BLUR

    def batch() -> tuple[Tensor, Tensor]:
        rows = torch.randint(len(x), (BATCH,), generator=generator)
        return rows, noise * torch.randn(BATCH, width, generator=generator)

    ends = torch.tensor([[len(d) - 1] * count for d in demonstrations])
    if keys is not None:
        ends = goals_of(demonstrations, keys, count, relative)
        alone = round(FORETOLD * steps)
        steps -= alone
    goals = torch.stack([s[t] for s, t in zip(standardised, ends, strict=True)])
    if keys is not None:
        for _ in _descent([policy.kept, policy.change], alone):
            rows, slips = batch()
            (policy.foretell(x[rows] + slips) - goals[episode[rows]]).abs().mean().backward()
        policy.divides = reach_of(policy.foretell, standardised, ends, blurred).divides
    lessons = lessons_of(demonstrations, ends[:, policy.goals], relative)
    policy.action_mean, policy.action_spread = _scale(lessons.coming)
    # Where noise moves the joints, their targets stay where they are.
    moved = policy.spread[:relative] / policy.action_spread[:, :relative]
    for _ in _descent([policy], steps):
        rows, slips = batch()
        early = torch.rand(BATCH, generator=generator) < 0.5
        stage = torch.where(early, lessons.following[rows], lessons.own[rows])
        wanted = (lessons.wanted(rows, stage) - policy.action_mean) / policy.action_spread
        wanted[..., :relative] -= slips[:, None, :relative] * moved
        coming, foretold = policy(x[rows] + slips, stage)
        loss = (coming - wanted).abs().mean()
        if keys is not None:
            loss = loss + (foretold - goals[episode[rows]]).abs().mean()
        loss.backward()
    if keys is not None:
        reach = reach_of(policy.foretell, standardised, ends, blurred)
        policy.error, policy.limit = reach.error, reach.limit
        policy.patience = PATIENCE * stage_lengths(ends, policy.divides)
        if relative:
            starts = torch.stack([s[0] for s in standardised])
            _learn_rests(policy, starts, rests_of(demonstrations, ends, relative))
    return policy.eval()


def _learn_rests(policy: KeyStatePolicy, starts: Tensor, rests: Tensor) -> None:
    """From first states, standardised, and where each arm rested, (demonstrations, K − 1, A)."""
    processes = [GaussianProcess(starts, goal) for goal in rests.unbind(1)]
    policy.rests.extend(processes)
    missed = torch.stack([process.left_out for process in processes], 1) - rests
    policy.exact = (missed.square().mean(0).sqrt() <= EXACT * rests.std(0)).all(-1)


def _widths(demonstrations: Sequence[Demonstration], relative: int) -> tuple[int, int]:
    """Of states and actions, once it is clear that these fit."""
    widths = {(d.states.shape[1], d.actions.shape[1]) for d in demonstrations}
    if len(widths) != 1:
        raise InputError(
            "`demonstrations` must hold one or more of equal widths, received widths "
            f"{sorted(widths)}."
        )
    (found,) = widths
    if not 0 <= relative <= min(found):
        raise InputError(
            f"`relative` must be within the widths {found[0]} of states and {found[1]} of actions, "
            f"received {relative}."
        )
    return found


def _descent(parts: Sequence[nn.Module], steps: int) -> Iterator[None]:
    """Steps of Adam on gradients that are there when the next one is asked for."""
    parameters = [p for part in parts for p in part.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=RATE, weight_decay=DECAY, fused=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        optimizer.zero_grad(set_to_none=True)
        yield
        optimizer.step()
        schedule.step()


def _scale(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and spread over the first dimension; what hardly changes is not blown up."""
    return x.mean(0), x.std(0).clamp_min(LEAST)
