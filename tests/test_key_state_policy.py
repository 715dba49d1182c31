from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from flashmi_reg.errors import InputError
from flashmi_reg.integrations.maniskill import Demonstration
from flashmi_reg.integrations.maniskill.foretelling import GaussianProcess
from flashmi_reg.integrations.maniskill.policy import Episode, KeyStatePolicy, train_policy
from flashmi_reg.integrations.maniskill.replay import disturbance
from flashmi_reg.integrations.maniskill.stages import (
    CHUNK,
    LEAD,
    OVERLAP,
    PATIENCE,
    PLAYED,
    coming_actions,
    goals_of,
    lessons_of,
    reach_of,
    stage_lengths,
)

FIRST = 10 - LEAD  # the first goal of `reaching`


def reaching(count: int = 20) -> tuple[list[Demonstration], list[torch.Tensor]]:
    """A point that goes to a first goal, then to a second; both are part of its state.

    The action is the step; which goal is next shows in the state's last coordinate.
    """
    generator = torch.Generator().manual_seed(0)
    demos, keys = [], []
    for seed in range(count):
        start, first, second = torch.randn(3, 2, generator=generator)
        ways = torch.linspace(0, 1, 11)[:, None]
        path = torch.cat([start.lerp(first, ways), first.lerp(second, ways[1:])])
        stage = (torch.arange(21) >= 10).float()[:, None]
        states = torch.cat([path, first.expand(21, 2), second.expand(21, 2), stage], 1)
        demos.append(Demonstration(states, path.diff(dim=0), seed))
        keys.append(torch.tensor([10, 20]))
    return demos, keys


def test_actions_and_key_states_are_learned():
    demos, keys = reaching()
    policy = train_policy(demos, keys, steps=250)
    states = torch.cat([d.states[:-1] for d in demos])
    actions = torch.cat([d.actions for d in demos])
    error = (policy.act(states)[:, 0] - actions).abs().mean()
    assert error < 0.25 * (actions - actions.mean(0)).abs().mean()
    times = goals_of(demos, keys, 2, 0)
    wanted = torch.stack([d.states[t] for d, t in zip(demos, times, strict=True)])
    wanted = wanted.repeat_interleave(20, 0)  # the same at all times of a demonstration
    standardised = (states - policy.mean) / policy.spread
    found = policy.foretell(standardised).detach() * policy.spread + policy.mean
    assert found.shape == (400, 2, 7)
    assert (found - wanted).abs().mean() < 0.25 * (wanted - wanted.mean(0)).abs().mean()


def test_a_process_tells_what_it_was_not_shown_and_knows_how_well():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(120, 5, generator=generator)
    x[:, 4] = 3  # the same in all rows
    noise = 0.1 * torch.randn(120, 2, generator=generator)
    y = torch.stack([x[:, 0].sin() + x[:, 1], x[:, 2] * x[:, 1]], 1)
    process = GaussianProcess(x[:100], (y + noise)[:100])
    error = (process(x[100:]) - y[100:]).square().mean().sqrt()
    known = (process.left_out - y[:100]).square().mean().sqrt()
    assert error < 0.25
    assert 0.5 < error / known < 2
    assert process(x[100]).shape == (2,)
    torch.testing.assert_close(process(x[100:].reshape(4, 5, 5))[3, 4], process(x[119]))


def test_a_row_is_left_out_with_those_like_it():
    x = torch.linspace(-2, 2, 30)[:, None]
    y = x.sin()
    y[7] += 1
    once, twice = GaussianProcess(x, y), GaussianProcess(x.repeat(2, 1), y.repeat(2, 1))
    torch.testing.assert_close(twice.left_out, once.left_out.repeat(2, 1))
    without = [i for i in range(30) if i != 7]
    assert (once.left_out[7] - x[7].sin()).abs() < 0.6 < (once.left_out[7] - y[7]).abs()
    assert (GaussianProcess(x[without], y[without])(x[7]) - x[7].sin()).abs() < 0.1


def test_the_blurred_coordinates_say_less():
    demos, _ = reaching()
    plain, dimmed = (train_policy(demos, blurred=part, steps=150) for part in (slice(0), slice(2)))
    states = torch.cat([d.states[:-1] for d in demos])
    moved = states.clone()
    moved[:, :2] += 0.1 * plain.spread[:2]
    changes = [(policy.act(moved) - policy.act(states)).abs().mean() for policy in (plain, dimmed)]
    assert changes[1] < 0.8 * changes[0]


def test_coming_actions_repeat_the_last_and_count_from_the_state():
    (demo,), _ = reaching(1)
    coming = coming_actions(demo, 0)
    assert coming.shape == (20, CHUNK, 2)
    assert torch.equal(coming[3], demo.actions[3:19])
    assert torch.equal(coming[-1], demo.actions[-1:].expand(CHUNK, 2))
    counted = coming_actions(demo, 1)
    torch.testing.assert_close(counted[..., 0] + demo.states[:-1, None, 0], coming[..., 0])
    assert torch.equal(counted[..., 1], coming[..., 1])


def test_targets_of_the_state_are_learned_as_distances_and_given_as_targets():
    demos, _ = reaching()
    near = [replace(d, actions=d.states[1:, :2]) for d in demos]  # go where the next state lies
    policy = train_policy(near, relative=2, steps=150)
    states = torch.cat([d.states[:-1] for d in near])
    steps = policy.act(states)[:, 0] - states[:, :2]
    wanted = torch.cat([d.actions for d in near]) - states[:, :2]
    assert (steps - wanted).abs().mean() < 0.5 * (wanted - wanted.mean(0)).abs().mean()


def test_the_baseline_has_the_same_size_and_learns_no_key_states():
    demos, keys = reaching()
    plain, aided = train_policy(demos, steps=5), train_policy(demos, keys, steps=5)
    sizes = [sum(p.numel() for p in policy.parameters()) for policy in (plain, aided)]
    assert sizes[0] == sizes[1]
    assert not torch.equal(plain.kept.weight, aided.kept.weight)


def test_training_repeats_by_seed_and_leaves_the_global_generator_alone():
    demos, keys = reaching(3)
    before = torch.get_rng_state()
    one, other = (train_policy(demos, keys, steps=3) for _ in range(2))
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(one.act(demos[0].states), other.act(demos[0].states))


def test_a_stage_leads_to_its_goal_and_stays_there():
    (demo,), keys = reaching(1)
    goals = goals_of([demo], keys, 2, 0)
    assert goals.tolist() == [[FIRST, 20]]
    near = replace(demo, actions=demo.states[1:, :2])  # go where the next state lies
    lessons = lessons_of([near], goals, relative=2)
    assert lessons.own.tolist() == [0] * FIRST + [1] * (20 - FIRST)
    rows = torch.arange(20)
    first = lessons.wanted(rows, torch.zeros(20, dtype=torch.long)) + near.states[:-1, None, :2]
    times = (rows[:, None] + torch.arange(CHUNK) + 1).clamp_max(FIRST)
    torch.testing.assert_close(first, near.states[times, :2])
    last = lessons.wanted(rows, torch.ones(20, dtype=torch.long))
    assert torch.equal(last, coming_actions(near, 2))


def test_a_goal_is_the_state_before_a_switch():
    (demo,), keys = reaching(1)
    # The last of them is the action at the goal itself.
    for first, goal in ((FIRST - 2, FIRST), (FIRST - 1, FIRST - 1), (FIRST, FIRST)):
        grip = torch.where(torch.arange(20) < first, 1.0, -1.0)[:, None]
        switched = replace(demo, actions=torch.cat([demo.actions, grip], 1))
        assert goals_of([switched], keys, 2, 2).tolist() == [[goal, 20]]
        assert goals_of([switched], keys, 2, 3).tolist() == [[FIRST, 20]]


def test_stages_are_taught_some_steps_early_and_never_late():
    (demo,), keys = reaching(1)
    lessons = lessons_of([demo], goals_of([demo], keys, 2, 0), relative=0)
    places = torch.arange(20)
    early = (places >= FIRST - OVERLAP) & (places < FIRST)
    assert torch.equal(lessons.following, lessons.own + early)


def test_goals_divide_where_the_states_before_are_told_from_them():
    demos, keys = reaching()
    goals = goals_of(demos, keys, 2, 0)
    states = [d.states for d in demos]
    there = torch.stack([d.states[t] for d, t in zip(demos, goals, strict=True)])

    def known(s: torch.Tensor) -> torch.Tensor:  # each demonstration's own goals
        gaps = (s[:, None, 2:6] - there[None, :, 0, 2:6]).abs().sum(-1)
        return there[gaps.argmin(1)]

    exact = reach_of(known, states, goals, slice(0))
    assert exact.divides.tolist() == [True]
    errors = 3 * torch.randn(20, 2, 7, generator=torch.Generator().manual_seed(1))
    vague = reach_of(lambda s: known(s) + errors, states, goals, slice(0))
    assert vague.divides.tolist() == [False]
    blurred = reach_of(known, states, goals, slice(2))
    assert blurred.error[0, :2].isinf().all()
    assert stage_lengths(goals, exact.divides).tolist() == [FIRST]


def test_an_episode_waits_at_a_goal_until_it_is_reached():
    demos, keys = reaching()
    policy = train_policy(demos, keys, steps=150)
    policy.divides[0], policy.patience[0] = True, PATIENCE * FIRST
    away, there = demos[0].states[0], demos[0].states[goals_of(demos, keys, 2, 0)[0, 0]]
    policy.limit[0] = 1.01 * _distance(policy, there)
    assert policy.limit[0] < _distance(policy, away)
    episode = Episode(policy)
    assert episode.act(away).shape == (PLAYED, 2)
    assert episode.stage == 0
    assert torch.equal(episode.act(there), policy.act(there)[:PLAYED])
    assert episode.stage == 1
    impatient = Episode(policy)
    for _ in range(math.ceil(PATIENCE * FIRST / PLAYED)):
        impatient.act(away)
        assert impatient.stage == 0
    impatient.act(away)
    assert impatient.stage == 1


def test_an_arm_is_held_where_it_was_foretold_exactly_that_it_rests():
    demos, keys = reaching(60)
    near = [replace(d, actions=d.states[1:]) for d in demos]  # go where the next state lies
    policy = train_policy(near, keys, relative=2, steps=20)
    assert policy.exact.tolist() == [True]
    policy.divides[0], policy.patience[0] = True, PATIENCE * FIRST
    start, goal = near[0].states[0], near[0].states[FIRST]
    torch.testing.assert_close(policy.rest(start, 0), goal[:2], atol=0.1, rtol=0)
    policy.limit[0] = 1.01 * _distance(policy, goal)
    for exact in (True, False):
        policy.exact[0] = exact
        episode = Episode(policy)
        episode.act(start)
        for stage in (0, 1) if exact else (1,):
            actions = episode.act(goal)
            decided = policy.act(goal, torch.tensor(stage))[:PLAYED]
            if exact:
                decided[:, :2] = policy.rest(start, 0)
            assert torch.equal(actions, decided)
        assert torch.equal(episode.act(goal), policy.act(goal, torch.tensor(1))[:PLAYED])


def test_what_cannot_be_foretold_is_not_exact():
    demos, keys = reaching(60)
    hidden = [replace(d, states=d.states.clone(), actions=d.states[1:]) for d in demos]
    for demo in hidden:
        demo.states[:, 2:4] = 0  # where the first goal lies
    assert train_policy(hidden, keys, relative=2, steps=5).exact.tolist() == [False]


def _distance(policy: KeyStatePolicy, state: torch.Tensor) -> torch.Tensor:
    standardised = (state - policy.mean) / policy.spread
    gap = standardised - policy.foretell(standardised)[0]
    return (gap / policy.error[0]).square().mean().detach()


def test_the_baseline_has_one_stage():
    demos, _ = reaching(3)
    episode = Episode(train_policy(demos, steps=5))
    episode.act(demos[0].states[0])
    assert episode.policy.goals == [1]
    assert episode.stage == 0


def test_bad_input():
    demos, keys = reaching(2)
    with pytest.raises(InputError, match="2 times that ascend and end at 20"):
        train_policy(demos, [torch.tensor([10, 12])] * 2)
    with pytest.raises(InputError, match="3 times that ascend"):
        train_policy(demos, keys, count=3)
    with pytest.raises(InputError, match="1 entries for 2"):
        train_policy(demos, keys[:1])
    with pytest.raises(InputError, match="equal widths"):
        train_policy([])
    with pytest.raises(InputError, match="`relative` must be within"):
        train_policy(demos, relative=3)


def test_disturbances_spare_the_gripper_and_the_arm_at_rest():
    generator = torch.Generator().manual_seed(0)
    targets = torch.linspace(0, 1, 30)[:, None].repeat(1, 7)
    targets = torch.cat([targets, targets[-1:].expand(10, 7)])
    actions = torch.cat([targets, torch.ones(40, 1)], 1)
    found = disturbance(actions, generator)
    assert found.shape == (40, 8)
    assert (found[:, 7] == 0).all()
    assert (found[29:] == 0).all()
    assert found[:29, :7].abs().max() > 0.01
