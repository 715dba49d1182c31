"""MI with class labels: known answers, invariances, gradients, and what is refused."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Normal
from torch.nn.functional import one_hot

from flashmi_reg import class_experts, multinomial
from flashmi_reg.class_experts import Neighbours, Prior, fit_linear, fit_quadratic, normalised
from flashmi_reg.errors import InputError, SupportWarning
from flashmi_reg.labels import _read, label_critic, label_mutual_information
from flashmi_reg.multinomial import cross_entropy, leave_one_out, listen, solve_classes

GRADIENTS = ["critic", "full"]


def draw_labels(n: int, classes: int, generator: torch.Generator) -> Tensor:
    return torch.randint(classes, (n,), generator=generator)


def shifted(
    n: int, shift: float, classes: int = 2, d: int = 1, seed: int = 0
) -> tuple[Tensor, ...]:
    """Standard Gaussians, class c moved by c · shift along the first coordinate."""
    generator = torch.Generator().manual_seed(seed)
    labels = draw_labels(n, classes, generator)
    x = torch.randn(n, d, generator=generator)
    x[:, 0] += shift * labels
    return x, labels


def entropy(labels: Tensor) -> float:
    share = labels.unique(return_counts=True)[1] / labels.numel()
    return -float(torch.special.xlogy(share, share).sum())


def integrated(components: list[list[Normal]]) -> float:
    """I(x; c) of equally frequent classes, each a mixture of equal parts, by the trapezoid rule."""
    x = torch.linspace(-30, 30, 60_001, dtype=torch.float64)
    densities = torch.stack(
        [torch.stack([part.log_prob(x).exp() for part in parts]).mean(0) for parts in components]
    )
    mixture = densities.mean(0)
    terms = torch.special.xlogy(densities, densities) - torch.special.xlogy(densities, mixture)
    return float(torch.trapezoid(terms.mean(0), x))


def gaussians(*means: float, scale: float = 1.0) -> list[Normal]:
    return [Normal(torch.tensor(m).double(), torch.tensor(scale).double()) for m in means]


# --- known answers ----------------------------------------------------------------------------


@pytest.mark.parametrize("shift", [0.5, 1.0, 2.0, 4.0])
def test_two_gaussians(shift: float) -> None:
    truth = integrated([gaussians(0.0), gaussians(shift)])
    values = [label_mutual_information(*shifted(1000, shift, seed=seed)) for seed in range(3)]
    assert torch.stack(values).mean().item() == pytest.approx(truth, abs=0.03)


@pytest.mark.parametrize("classes", [3, 10, 20])
def test_many_gaussians_in_three_dimensions(classes: int) -> None:
    truth = integrated([gaussians(0.7 * c) for c in range(classes)])
    values = [
        label_mutual_information(*shifted(1000, 0.7, classes, d=3, seed=seed)) for seed in range(2)
    ]
    assert torch.stack(values).mean().item() == pytest.approx(truth, abs=0.06)


def test_classes_that_differ_in_spread_alone(generator: torch.Generator) -> None:
    labels = draw_labels(1000, 2, generator)
    x = torch.randn(1000, 1, generator=generator) * torch.where(labels == 1, 4.0, 1.0)[:, None]
    truth = integrated([gaussians(0.0), gaussians(0.0, scale=4.0)])
    assert label_mutual_information(x, labels).item() == pytest.approx(truth, abs=0.05)


def test_interleaved_clusters_of_two_classes(generator: torch.Generator) -> None:
    places = torch.tensor([[0.0, 6.0], [3.0, 9.0]])
    values = []
    for _ in range(3):
        labels, which = draw_labels(1000, 2, generator), draw_labels(1000, 2, generator)
        x = places[labels, which][:, None] + torch.randn(1000, 1, generator=generator)
        values.append(label_mutual_information(x, labels))
    truth = integrated([gaussians(0.0, 6.0), gaussians(3.0, 9.0)])
    assert torch.stack(values).mean().item() == pytest.approx(truth, abs=0.05)


@pytest.mark.filterwarnings("ignore::flashmi_reg.errors.SupportWarning")
@pytest.mark.parametrize(("classes", "d"), [(2, 1), (5, 5), (10, 2)])
def test_independence_is_zero_on_average(classes: int, d: int) -> None:
    values = [
        label_mutual_information(*shifted(500, 0.0, classes, d=d, seed=seed)) for seed in range(4)
    ]
    assert abs(torch.stack(values).mean().item()) < 0.02


def test_dependence_among_many_coordinates_is_linear_regression() -> None:
    x, labels = shifted(1000, 2.0, d=40)
    truth = integrated([gaussians(0.0), gaussians(2.0)])
    assert label_mutual_information(x, labels).item() == pytest.approx(truth, abs=0.06)


@pytest.mark.parametrize("classes", [2, 5, 12])
def test_separated_classes_give_their_entropy(classes: int) -> None:
    x, labels = shifted(600, 30.0, classes, d=2)
    value, ceiling = label_mutual_information(x, labels).item(), entropy(labels)
    # Ranks do not tell how wide a gap is: near the borders of a class its neighbours stay likely.
    assert value == pytest.approx(ceiling, rel=0.04)
    assert value <= ceiling


def test_one_class_is_zero_and_said(generator: torch.Generator) -> None:
    x = torch.randn(50, 2, generator=generator, requires_grad=True)
    with pytest.warns(SupportWarning, match="one class only"):
        value = label_mutual_information(x, torch.full((50,), 7))
    assert value.item() == pytest.approx(0.0, abs=1e-6)
    value.backward()
    assert x.grad.isfinite().all()


# --- invariances ------------------------------------------------------------------------------


def example(n: int = 300, seed: int = 0) -> tuple[Tensor, Tensor]:
    return shifted(n, 1.0, classes=4, d=3, seed=seed)


def test_names_of_the_classes_do_not_matter() -> None:
    x, labels = example()
    names = torch.tensor([40, -3, 7, 1000])
    value = label_mutual_information(x, labels)
    assert label_mutual_information(x, names[labels]).item() == pytest.approx(
        value.item(), abs=1e-4
    )


def test_order_of_the_samples_does_not_matter(generator: torch.Generator) -> None:
    x, labels = example()
    order = torch.randperm(len(x), generator=generator)
    value = label_mutual_information(x, labels)
    assert label_mutual_information(x[order], labels[order]).item() == pytest.approx(
        value.item(), abs=1e-4
    )


def test_monotone_maps_and_order_of_coordinates_do_not_matter() -> None:
    x, labels = example()
    value = label_mutual_information(x, labels).item()
    for mapped in (x.exp(), -3 * x + 5, x.flip(-1)):
        assert label_mutual_information(mapped, labels).item() == pytest.approx(value, abs=1e-3)


def test_linear_maps_hardly_matter(generator: torch.Generator) -> None:
    x, labels = example(1000)
    value = label_mutual_information(x, labels).item()
    for _ in range(3):
        turn = torch.randn(3, 3, generator=generator) + torch.eye(3)
        assert label_mutual_information(x @ turn, labels).item() == pytest.approx(value, abs=0.03)


def test_batch_is_its_data_sets_even_where_classes_are_absent() -> None:
    sets = [example(200, seed) for seed in range(3)]
    x = torch.stack([x for x, _ in sets])
    labels = torch.stack([labels for _, labels in sets])
    labels[1] %= 2
    labels[2] = labels[2] * 5
    x.requires_grad_()
    values = label_mutual_information(x, labels)
    (gradient,) = torch.autograd.grad(values.sum(), x)
    for i in range(3):
        alone = x[i].detach().requires_grad_()
        value = label_mutual_information(alone, labels[i])
        assert values[i].item() == pytest.approx(value.item(), abs=1e-3)
        value.backward()
        torch.testing.assert_close(gradient[i], alone.grad, rtol=0.02, atol=1e-5)


@pytest.mark.filterwarnings("ignore::flashmi_reg.errors.SupportWarning")
@pytest.mark.parametrize("n", [32, 60, 200])
def test_never_above_the_entropy_of_the_labels(n: int) -> None:
    for seed in range(4):
        for shift in (0.0, 1.0, 100.0):
            x, labels = shifted(n, shift, classes=2 + 3 * seed, d=1 + 2 * seed, seed=seed)
            assert label_mutual_information(x, labels).item() <= entropy(labels) + 1e-6


def test_equal_input_gives_equal_output_and_the_global_generator_is_left_alone() -> None:
    x, labels = shifted(2100, 1.0)
    state = torch.random.get_rng_state()
    value = label_mutual_information(x, labels)
    assert torch.equal(value, label_mutual_information(x, labels))
    assert torch.equal(state, torch.random.get_rng_state())
    other = label_mutual_information(x, labels, generator=torch.Generator().manual_seed(1))
    assert other.item() == pytest.approx(value.item(), abs=0.01)
    assert other != value


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_dtypes(dtype: torch.dtype) -> None:
    x, labels = example()
    value = label_mutual_information(x.to(dtype), labels)
    assert value.dtype == torch.promote_types(dtype, torch.float32)
    assert value.item() == pytest.approx(label_mutual_information(x, labels).item(), abs=5e-3)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.bool])
def test_any_integers_are_labels(dtype: torch.dtype) -> None:
    x, labels = shifted(200, 1.0)
    assert torch.equal(
        label_mutual_information(x, labels.to(dtype)), label_mutual_information(x, labels)
    )


def test_autocast_changes_no_bit() -> None:
    x, labels = example()
    expected = label_mutual_information(x, labels)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(label_mutual_information(x, labels), expected)


# --- gradients --------------------------------------------------------------------------------


def test_full_gradient_is_that_of_the_value(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(class_experts, "ITERATIONS", 40)
    monkeypatch.setattr(multinomial, "HEARING_STEPS", 30)
    x, labels = shifted(80, 1.2, classes=3, d=2)
    target = one_hot(labels)[None].double()
    scores = (x - x.mean(0)).double()[None].requires_grad_()
    direction = scores.detach().cos()

    def value(step: float) -> Tensor:
        return _read(scores + step * direction, target, None).value.sum()

    value(0.0).backward()
    with torch.no_grad():
        slope = (value(1e-5) - value(-1e-5)) / 2e-5
    assert (scores.grad * direction).sum().item() == pytest.approx(slope.item(), rel=0.02)


def test_critic_gradient_points_where_the_pointwise_information_rises() -> None:
    x, labels = shifted(512, 1.5)
    exact = x.double().requires_grad_()
    logits = exact * 1.5 - 1.5**2 / 2  # log p(x|1) − log p(x|0)
    other = torch.where(labels[:, None] == 1, -logits, logits)
    (-nn.functional.softplus(other).mean()).backward()
    x.requires_grad_()
    label_mutual_information(x, labels).backward()
    alike = torch.cosine_similarity(x.grad.double().flatten(), exact.grad.flatten(), 0)
    assert alike > 0.7


@pytest.mark.filterwarnings("ignore::flashmi_reg.errors.SupportWarning")
@pytest.mark.parametrize("gradient", GRADIENTS)
@pytest.mark.parametrize(
    "spoil",
    [
        torch.zeros_like,
        lambda x: x.round(),
        lambda x: x[:, :1].expand_as(x),
        lambda x: torch.where(torch.arange(len(x))[:, None] < 100, x[:1], x),
        lambda x: 1e-30 * x,
        lambda x: 1e30 * x,
    ],
    ids=["constant", "ties", "collinear", "duplicates", "tiny", "huge"],
)
def test_gradients_stay_finite(spoil: Callable[[Tensor], Tensor], gradient: str) -> None:
    x, labels = example(150)
    leaf = spoil(x).clone().requires_grad_()
    value = label_mutual_information(leaf, labels, gradient=gradient)
    value.backward()
    assert value.isfinite()
    assert leaf.grad.isfinite().all()


def test_maximising_finds_the_direction_that_tells_the_classes(generator: torch.Generator) -> None:
    hidden = nn.functional.normalize(torch.randn(6, generator=generator), dim=0)
    weight = nn.Parameter(torch.randn(6, 1, generator=generator))
    optimizer = torch.optim.Adam([weight], lr=0.1)
    for _ in range(40):
        labels = draw_labels(256, 2, generator)
        x = torch.randn(256, 6, generator=generator) + (3 * labels[:, None] - 1.5) * hidden
        optimizer.zero_grad()
        (-label_mutual_information(x @ nn.functional.normalize(weight, dim=0), labels)).backward()
        optimizer.step()
    assert nn.functional.cosine_similarity(weight.detach()[:, 0], hidden, 0).abs() > 0.97


def test_minimising_removes_a_class_from_a_code(generator: torch.Generator) -> None:
    """A code of two numbers for three coordinates: the loss drops the one that tells the class."""
    turn = torch.linalg.qr(torch.randn(3, 3, generator=generator)).Q

    def draw(n: int) -> tuple[Tensor, Tensor]:
        labels = draw_labels(n, 2, generator)
        x = torch.randn(n, 3, generator=generator)
        x[:, 0] += 3 * labels - 1.5
        return x @ turn, labels

    encoder = nn.Parameter(torch.randn(3, 2, generator=generator) / 2)
    decoder = nn.Parameter(torch.randn(2, 3, generator=generator) / 2)
    optimizer = torch.optim.Adam([encoder, decoder], lr=0.05)
    for _ in range(100):
        x, labels = draw(256)
        error = (x @ encoder @ decoder - x).square().mean()
        optimizer.zero_grad()
        (error + 5 * label_mutual_information(x @ encoder, labels)).backward()
        optimizer.step()
    x, labels = draw(2000)
    code = (x @ encoder).detach()
    assert probe(x, labels) > 0.9
    assert probe(code, labels) < 0.6
    # Nothing else is lost: the other two coordinates are rebuilt.
    rest = torch.eye(3)[1:] @ turn
    assert ((code @ decoder - x) @ rest.T).square().mean() < 0.1


def probe(x: Tensor, labels: Tensor) -> float:
    """Held-out accuracy of a logistic regression."""
    x = (x - x.mean(0)) / x.std(0).clamp_min(1e-6)
    weight = torch.zeros(x.shape[1] + 1, requires_grad=True)
    half = len(x) // 2
    optimizer = torch.optim.LBFGS([weight], max_iter=50)

    def closure() -> Tensor:
        optimizer.zero_grad()
        logits = x[:half] @ weight[1:] + weight[0]
        loss = nn.functional.binary_cross_entropy_with_logits(logits, labels[:half].float())
        loss.backward()
        return loss

    optimizer.step(closure)
    told = (x[half:] @ weight[1:] + weight[0] > 0) == (labels[half:] == 1)
    return float(told.float().mean())


# --- the critic -------------------------------------------------------------------------------


def test_critic_is_the_pointwise_information_at_new_points() -> None:
    critic = label_critic(*shifted(2000, 2.0))
    x, labels = shifted(500, 2.0, seed=1)
    logits = 2 * x[:, 0] - 2
    truth = math.log(2) - nn.functional.softplus(torch.where(labels == 1, -logits, logits))
    assert (critic(x, labels) - truth).abs().mean() < 0.06


def test_critic_normalises_exactly() -> None:
    x, labels = example()
    critic = label_critic(x, labels)
    share = labels.bincount() / len(labels)
    torch.testing.assert_close((critic.log_ratios(x + 1).exp() * share).sum(-1), torch.ones(300))


def test_critic_takes_batches_and_gives_gradients() -> None:
    x, labels = (torch.stack(parts) for parts in zip(example(seed=0), example(seed=1), strict=True))
    critic = label_critic(x, labels)
    new = x[:, :50].clone().requires_grad_()
    value = critic(new, labels[:, :50])
    assert value.shape == (2, 50)
    value.sum().backward()
    assert new.grad.isfinite().all()
    assert new.grad.abs().sum() > 0


def test_critic_refuses_classes_it_has_not_seen() -> None:
    x, labels = example()
    with pytest.raises(InputError, match=r"`labels` holds \[9\]"):
        label_critic(x, labels)(x[:1], torch.tensor([9]))


# --- what is refused, and what is doubted -----------------------------------------------------


@pytest.mark.parametrize(
    ("x", "labels", "message"),
    [
        ([[1.0]], torch.zeros(1), "`x` must be a torch.Tensor, received list"),
        (torch.randn(50, 2), [0] * 50, "`labels` must be a torch.Tensor"),
        (torch.randn(50), torch.zeros(50).long(), "use `x\\[:, None\\]`"),
        (torch.zeros(50, 2).long(), torch.zeros(50).long(), "`x` must be floating point"),
        (torch.randn(50, 2), torch.randn(50), "received torch.float32"),
        (torch.randn(50, 2), torch.zeros(50, 3).long(), "argmax"),
        (torch.randn(50, 2), torch.zeros(49).long(), "one class a sample"),
        (torch.randn(31, 2), torch.zeros(31).long(), "n = 31"),
        (torch.randn(50, 0), torch.zeros(50).long(), "0 coordinates"),
        (torch.randn(50, 65), torch.zeros(50).long(), "more than 64"),
        (torch.full((50, 2), math.nan), torch.zeros(50).long(), "100 NaN or infinite"),
        (torch.randn(50, 2), torch.arange(50), "50 classes in n = 50"),
    ],
)
def test_errors_say_what_to_do(x: Tensor, labels: Tensor, message: str) -> None:
    with pytest.raises(InputError, match=message):
        label_mutual_information(x, labels)


def test_unknown_gradient_is_refused() -> None:
    with pytest.raises(InputError, match="`gradient` must be"):
        label_mutual_information(*example(), gradient="none")


def test_few_samples_of_a_class_are_doubted() -> None:
    x, labels = example()
    labels[:3] = 9
    with pytest.warns(SupportWarning, match=r"1 class\(es\) of fewer than 8"):
        label_mutual_information(x, labels)


def test_more_coefficients_than_samples_are_doubted(generator: torch.Generator) -> None:
    x = torch.randn(100, 60, generator=generator)
    with pytest.warns(SupportWarning, match="d = 60 coordinates and `labels` 3 classes"):
        label_mutual_information(x, torch.arange(100) % 3)


def test_constant_columns_are_named_and_plain_data_are_not_doubted() -> None:
    x, labels = example()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        label_mutual_information(x, labels)
    x[:, 1] = 4.0
    with pytest.warns(SupportWarning, match=r"constant in column\(s\) \[1\]"):
        label_mutual_information(x, labels)


# --- the experts ------------------------------------------------------------------------------


def experts_data(n: int = 60) -> tuple[Tensor, Tensor, Prior]:
    x, labels = shifted(n, 1.0, classes=3, d=2)
    target = one_hot(labels)[None].double()
    return x.double()[None], target, Prior.of(target)


def test_readout_reaches_its_optimum() -> None:
    points, target, prior = experts_data()
    offset = prior.fit.expand_as(target)
    weights = torch.zeros(1, 2, 3, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [weights], max_iter=200, tolerance_grad=1e-12, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = cross_entropy(offset + points @ weights, target).sum()
        loss = loss + weights.square().sum() / (2 * 60)
        loss.backward()
        return loss

    optimizer.step(closure)
    solution = solve_classes(points, offset, target, 30)
    torch.testing.assert_close(solution.weights, weights.detach(), rtol=0, atol=1e-4)
    torch.testing.assert_close(solution.logits, offset + points @ solution.weights)


def test_readout_has_the_gradient_of_its_optimum() -> None:
    points, target, prior = experts_data(8)
    offset = prior.fit.expand_as(target) + 0.1 * points.sum(-1, keepdim=True).sin()
    inputs = [points.requires_grad_(), offset.detach().requires_grad_()]
    assert torch.autograd.gradcheck(
        lambda *given: tuple(solve_classes(*given, target, 30)), inputs, eps=1e-4, atol=2e-3
    )


@pytest.mark.parametrize("place", [0, 7, 33])
def test_readout_without_a_sample_is_what_leave_one_out_says(place: int) -> None:
    points, target, prior = experts_data()
    offset = prior.fit.expand_as(target)
    logits = solve_classes(points, offset, target, 60).logits
    guess = leave_one_out(points, logits, target)[0, place]
    keep = torch.arange(60) != place
    # The ridge is that of 60 samples: 59 are fitted with features a little louder.
    scale = math.sqrt(59 / 60)
    rest = solve_classes(points[:, keep] / scale, offset[:, keep], target[:, keep], 60)
    exact = (offset[:, place] + (points[:, place] / scale) @ rest.weights[0])[0]
    centre = lambda row: row - row.mean()  # noqa: E731
    moved = (centre(logits[0, place]) - centre(exact)).abs().max()
    assert (centre(guess) - centre(exact)).abs().max() < 0.3 * moved + 1e-3


def test_quadratic_expert_without_a_sample_is_what_it_says_left_out() -> None:
    points, target, prior = experts_data()
    said = fit_quadratic(points, target, prior, 5.0)[1]
    for place in (0, 7, 33):
        keep = torch.arange(60) != place
        rest, _ = fit_quadratic(points[:, keep], target[:, keep], Prior.of(target[:, keep]), 5.0)
        given = prior.left_out[:, place : place + 1]
        exact = normalised(rest(points[:, place : place + 1]), given)[0, 0]
        moved = (said.fit[0, place] - exact).abs().max()
        assert (said.left_out[0, place] - exact).abs().max() < 0.2 * moved + 1e-3


def test_neighbours_left_out_do_not_vote() -> None:
    points, target, prior = experts_data()
    own = torch.arange(60)[None]
    said = Neighbours(points, target, prior)(points, (5,), own)[0]
    for place in (0, 7, 33):
        keep = torch.arange(60) != place
        given = prior.left_out[:, place : place + 1]
        rest = Neighbours(points[:, keep], target[:, keep], Prior(given, given))
        # Without itself among the anchors, the fifth of the others is the fifth of all.
        exact = rest(points[:, place : place + 1], (4,), None)[0].fit
        torch.testing.assert_close(said.left_out[:, [place]], exact)


def test_experts_are_heard_as_they_deserve(generator: torch.Generator) -> None:
    points, target, prior = experts_data(400)
    good = fit_linear(points, target, prior)[1].left_out
    noise = torch.randn(good.shape, generator=generator, dtype=torch.float64)
    ratios = torch.stack([good, noise, -good], -1)
    weights = listen(ratios, target, prior.left_out)[0]
    assert weights[0] > 0.5
    assert weights[1] < 0.2
    assert weights[2] == 0

    # Karush–Kuhn–Tucker: no slope where an expert is heard, none downhill where it is not.
    w = weights.clone().requires_grad_()
    loss = cross_entropy(prior.left_out + ratios @ w, target).sum() + w.square().sum() / 800
    (slope,) = torch.autograd.grad(loss, w)
    assert (slope[weights > 0].abs() < 1e-6).all()
    assert (slope[weights == 0] > -1e-6).all()
