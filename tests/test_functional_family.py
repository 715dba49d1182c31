"""What is made of estimates: chain rule, total correlation, matrices, pointwise, independence."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from itertools import combinations

import pytest
import torch
from torch import Tensor

import flashmi_reg.batches as batches
from flashmi_reg import (
    ConditionalMutualInformationLoss,
    FlashMI,
    conditional_mutual_information,
    independence_test,
    mutual_information,
    mutual_information_matrix,
    pointwise_mutual_information,
    total_correlation,
)
from flashmi_reg.chain import conditional_terms, halves, total_correlation_terms
from flashmi_reg.errors import InputError, SupportWarning


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=seeded(seed))


def student(*shape: int, seed: int = 0, freedom: int = 4) -> tuple[Tensor, ...]:
    """Variables that are uncorrelated and share their scale: jointly Student, hence dependent."""
    draws = torch.randn(shape[0] + freedom, *shape[1:-1], shape[-1], generator=seeded(seed))
    scale = draws[shape[0] :, ..., :1].square().sum(0).div(freedom).sqrt()
    return (draws[: shape[0]] / scale).unbind(0)


# --- conditional mutual information: known answers --------------------------------------------


def test_conditional_information_of_a_markov_chain_is_zero(trained: FlashMI) -> None:
    z, a, b = normal(3, 3, 500, 2)
    value = conditional_mutual_information(z + a, z + b, z, model=trained)
    assert value.shape == (3,)
    assert value.mean().item() == pytest.approx(0, abs=0.02)
    assert value.abs().max() < 0.06
    assert (mutual_information(z + a, z + b) > 0.1).all()


def test_gaussian_conditional_information_has_its_closed_form(trained: FlashMI) -> None:
    z, a, b = normal(3, 3, 500, 2, seed=1)
    value = conditional_mutual_information(z + a, z + b + a.flip(-1), z, model=trained)
    assert value.mean().item() == pytest.approx(math.log(2), abs=0.04)


@pytest.mark.parametrize("family", [normal, student])
def test_chain_rule_holds_whichever_side_is_given(
    trained: FlashMI, family: Callable[..., Iterable[Tensor]]
) -> None:
    """I(x; y, z) = I(x; y) + I(z; x | y) = I(x; z) + I(y; x | z), up to the errors of the parts.

    The conditional part is taken from the other side, so that no estimate of one cancels.
    """
    a, b, z = family(3, 3, 500, 1)
    x, y = a + z, a + b
    joint = trained.mutual_information(x, torch.cat([y, z], -1))
    for first, second in ((y, z), (z, y)):
        rest = conditional_mutual_information(second, x, first, model=trained)
        parts = trained.mutual_information(x, first) + rest
        assert (parts - joint).mean().item() == pytest.approx(0, abs=0.05)
        assert joint.mean() > 0.4


def test_conditional_information_is_symmetric_on_average(trained: FlashMI) -> None:
    z, a, b = normal(3, 3, 500, 1, seed=2)
    x, y = z + a, z + b + a
    difference = conditional_mutual_information(x, y, z, model=trained)
    difference = difference - conditional_mutual_information(y, x, z, model=trained)
    assert difference.mean().item() == pytest.approx(0, abs=0.03)


def test_processing_adds_no_information_on_average(trained: FlashMI) -> None:
    x, a, b = normal(3, 3, 500, 2, seed=3)
    z = x + a
    processed = (z + b, z[..., :1], z.abs())
    whole = trained.mutual_information(x, z).mean()
    for image in processed:
        assert trained.mutual_information(x, image).mean() < whole + 0.02


# --- conditional mutual information: classes --------------------------------------------------


def test_condition_on_classes_is_the_mean_within_them(tiny: FlashMI) -> None:
    z = torch.arange(300) % 3 % 2  # classes of 200 and 100 samples
    x = normal(300, 2) + 5 * z[:, None]
    y = x[:, :1] + normal(300, 1, seed=1)
    values = [tiny.mutual_information(x[z == c], y[z == c]) for c in (0, 1)]
    expected = 2 / 3 * values[0] + 1 / 3 * values[1]
    for condition in (
        z,
        z[:, None],
        z.bool(),
        7 - 3 * z.to(torch.uint8),
        z.new_zeros(300, 2) + z[:, None],
    ):
        value = conditional_mutual_information(x, y, condition, model=tiny)
        torch.testing.assert_close(value, expected)
    batched = conditional_mutual_information(
        *(torch.stack([side, side]) for side in (x, y, z)), model=tiny
    )
    torch.testing.assert_close(batched, expected.expand(2))


def test_cause_of_classes_is_explained_away(trained: FlashMI) -> None:
    z = torch.arange(600) % 2
    x, y = (normal(600, 2, seed=seed) + 3 * z[:, None] for seed in (0, 1))
    assert mutual_information(x, y) > 0.4
    value = conditional_mutual_information(x, y, z, model=trained)
    assert value.item() == pytest.approx(0, abs=0.04)


def test_classes_within_classes(tiny: FlashMI) -> None:
    z = torch.arange(300) % 3 % 2
    x = normal(300, 2) + z[:, None]
    y = (x[:, 0] + normal(300, seed=1) > 0).long()
    other = (normal(300, seed=2) + y > 0.5).long()
    shares = {0: 2 / 3, 1: 1 / 3}
    pairs = {"labels": (x, y), "turned": (y, x), "classes": (y, other)}
    expected = {
        name: sum(share * mutual_information(a[z == c], b[z == c]) for c, share in shares.items())
        for name, (a, b) in pairs.items()
    }
    for name, (a, b) in pairs.items():
        value = conditional_mutual_information(a, b, z, model=tiny)
        torch.testing.assert_close(value, expected[name])
        batched = conditional_mutual_information(
            *(torch.stack([side, side]) for side in (a, b, z)), model=tiny
        )
        torch.testing.assert_close(batched, expected[name].expand(2))
    columns = conditional_mutual_information(*(side[:, None] for side in (y, other, z)), model=tiny)
    torch.testing.assert_close(columns, expected["classes"])
    stated = conditional_mutual_information(
        x, y.double()[:, None], z.float()[:, None], discrete_y=True, discrete_z=True, model=tiny
    )
    torch.testing.assert_close(stated, expected["labels"])
    with pytest.raises(InputError, match=r"`z` has 1 of 2 class.*fewer than 32.*least with 20"):
        conditional_mutual_information(x, y, (torch.arange(300) < 20).long(), model=tiny)
    with pytest.raises(InputError, match=r"within a class of `z`: `labels` holds 150 classes"):
        conditional_mutual_information(x, torch.arange(300) // 2, z, model=tiny)
    with pytest.raises(InputError, match=r"`y` must hold one class a sample, shape \(300,\)"):
        conditional_mutual_information(x, y[:50], z, model=tiny)


def test_classes_given_a_continuous_variable_have_known_answers() -> None:
    z, noise = normal(2, 1000, 1)
    coin = (normal(1000, seed=5) > 0).long()
    turned = coin ^ (z[:, 0] > 0).long()  # tells of the coin once z is known, and only then
    assert abs(mutual_information(coin, turned)) < 0.01
    assert conditional_mutual_information(coin, turned, z).item() == pytest.approx(
        math.log(2), abs=0.05
    )
    # Two signs of z that is seen with noise are independent, given z.
    first = (z[:, 0] + noise[:, 0] > 0).long()
    second = (z[:, 0] + normal(1000, seed=6) > 0).long()
    assert mutual_information(first, second) > 0.04
    assert conditional_mutual_information(first, second, z).item() == pytest.approx(0, abs=0.03)
    # One of classes, on either side: coin and y are independent, but not given z = y + 2 coin.
    y = normal(1000, 1, seed=7)
    sum_of = y + 2 * coin[:, None] + 0.3 * normal(1000, 1, seed=8)
    known = [conditional_mutual_information(*pair, sum_of) for pair in ((coin, y), (y, coin))]
    assert known[0] == known[1]
    # I(coin; y | z) = I(coin; y, z) − I(coin; z), of which the first is nearly log 2.
    rest = math.log(2) - mutual_information(sum_of, coin).item()
    assert known[0].item() == pytest.approx(rest, abs=0.04)
    assert rest > 0.2


def test_terms_of_classes_add_up_and_pass_gradients() -> None:
    z = normal(200, 2).requires_grad_()
    x = (z[:, 0].detach() > 0).long()
    y = (normal(200, seed=1) > 0).long()
    for a, b in ((x, y), (x, normal(200, 1, seed=2)), (normal(200, 1, seed=2), x)):
        terms = conditional_terms(a, b, z, None, "critic", FlashMI.from_pretrained("base"))
        assert torch.equal(terms.information, terms.joint - terms.given)
        z.grad = None
        terms.information.backward()
        assert z.grad.isfinite().all()
        assert (z.grad != 0).any()
    batched = conditional_mutual_information(
        *(torch.stack([side, side]) for side in (x, y, z.detach()))
    )
    single = conditional_mutual_information(x, y, z.detach())
    torch.testing.assert_close(batched, single.expand(2), atol=1e-4, rtol=0)
    loss = ConditionalMutualInformationLoss("minimize")  # equalised odds of scores z
    assert loss(x, y, z) == conditional_mutual_information(x, y, z)
    with pytest.raises(InputError, match=r"`x`, `y` and `z` must pair up"):
        conditional_mutual_information(x, y[:50], z)
    with pytest.raises(InputError, match=r"`z` must have the samples"):
        conditional_mutual_information(x, normal(200, 1), z[:50])


def test_small_classes_are_refused(tiny: FlashMI) -> None:
    x, y = normal(100, 2), normal(100, 1, seed=1)
    z = (torch.arange(100) >= 30).long()
    with pytest.raises(InputError, match=r"`z` has 1 of 2 class.*fewer than 50.*least with 30"):
        conditional_mutual_information(x, y, z, model=tiny)


@pytest.mark.parametrize("shape", [(99,), (2, 100), (100, 1, 1)])
def test_classes_of_other_samples_are_refused(tiny: FlashMI, shape: tuple[int, ...]) -> None:
    z = torch.zeros(shape, dtype=torch.int64)
    with pytest.raises(InputError, match=r"`z` must hold one class a sample, shape \(100,\)"):
        conditional_mutual_information(normal(100, 2), normal(100, 1), z, model=tiny)


def test_sides_too_wide_together_are_refused(tiny: FlashMI) -> None:
    x, y, z = normal(3, 200, 33)
    with pytest.raises(InputError, match=r"`y` and `z` side by side.*66 coordinates"):
        conditional_mutual_information(x, y, z, model=tiny)
    with pytest.raises(InputError, match=r"as `y`, `z`.*pair up"):
        conditional_mutual_information(x, y, z[:50], model=tiny)


def test_terms_of_the_conditional_add_up(tiny: FlashMI) -> None:
    x, y, z = normal(3, 100, 2)
    terms = conditional_terms(x, y, z, None, "critic", tiny)
    assert torch.equal(terms.joint, tiny.mutual_information(x, torch.cat([y, z], 1)))
    assert torch.equal(terms.given, tiny.mutual_information(x, z))
    assert torch.equal(terms.information, terms.joint - terms.given)


# --- total correlation ------------------------------------------------------------------------


@pytest.mark.parametrize(("d", "rho"), [(4, 0.0), (4, 0.5), (8, 0.3)])
def test_gaussian_total_correlation_has_its_closed_form(
    trained: FlashMI, d: int, rho: float
) -> None:
    """As the mean log ratio of densities at the samples, whose expectation it is."""
    covariance = rho * torch.ones(d, d) + (1 - rho) * torch.eye(d)
    x = normal(2, 500, d, seed=d) @ torch.linalg.cholesky(covariance).T
    ratio = (x**2).sum(-1) - (x @ torch.linalg.inv(covariance) * x).sum(-1)
    expected = 0.5 * (ratio.mean(-1) - torch.logdet(covariance))
    value = total_correlation(x, model=trained)
    assert value.shape == (2,)
    assert value.mean().item() == pytest.approx(expected.mean().item(), abs=0.02 + 0.02 * rho * d)


def test_two_variables_have_their_mutual_information(tiny: FlashMI) -> None:
    x, y = normal(100, 2), normal(100, 3, seed=1)
    expected = tiny.mutual_information(x, y)
    assert torch.equal(total_correlation([x, y], model=tiny), expected)
    both = torch.cat([x, y], 1)
    assert torch.equal(total_correlation(both, [[0, 1], [2, 3, 4]], model=tiny), expected)
    value = total_correlation(both, [[4, 2, 3], [1, 0]], model=tiny)  # other shuffled pairs
    torch.testing.assert_close(value, expected, atol=0.01, rtol=0)


@pytest.mark.parametrize("widths", [[1] * 2, [1] * 7, [1] * 16, [5, 1, 1, 1], [1, 2, 3, 4, 5]])
def test_halves_are_a_chain(widths: list[int]) -> None:
    """Entropies of unions cancel: Σ I(a; b) = Σ H(variable) − H(all), whatever H is."""
    ends = torch.tensor(widths).cumsum(0).tolist()
    variables = [tuple(range(end - width, end)) for end, width in zip(ends, widths, strict=True)]
    count: dict[frozenset[int], int] = {}
    for first, second in halves(variables):
        assert not set(first) & set(second)
        for part, sign in ((first, 1), (second, 1), (first + second, -1)):
            count[frozenset(part)] = count.get(frozenset(part), 0) + sign
    expected = {frozenset(variable): 1 for variable in variables} | {frozenset(range(ends[-1])): -1}
    assert {part: times for part, times in count.items() if times} == expected
    if len(set(widths)) == 1:
        assert len(halves(variables)[0][0]) <= -(-len(widths) // 2)


def test_terms_of_the_total_correlation_add_up(tiny: FlashMI) -> None:
    x = normal(2, 100, 4)
    terms = total_correlation_terms(x, None, None, "critic", tiny)
    pairs = [([0, 1], [2, 3]), ([0], [1]), ([2], [3])]
    expected = [tiny.mutual_information(x[..., a], x[..., b]) for a, b in pairs]
    torch.testing.assert_close(terms.splits, torch.stack(expected, -1), atol=1e-4, rtol=0)
    assert torch.equal(terms.information, terms.splits.sum(-1))


# --- matrix -----------------------------------------------------------------------------------


@pytest.mark.parametrize("chunk", [16_384, 200])
@pytest.mark.parametrize("batched", [False, True])
def test_matrix_is_symmetric_and_that_of_single_calls(
    tiny: FlashMI, chunk: int, batched: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches, "CHUNK", chunk)
    groups = [[0], [3, 1], [2], [4, 5, 6]]
    x = normal(2, 80, 7) if batched else normal(80, 7)
    x[..., 3] += x[..., 0]
    matrix = mutual_information_matrix(x, groups, model=tiny)
    assert matrix.shape == (*x.shape[:-2], 4, 4)
    assert torch.equal(matrix.nan_to_num(9), matrix.mT.nan_to_num(9))
    assert matrix.diagonal(dim1=-2, dim2=-1).isnan().all()
    for i, j in combinations(range(4), 2):
        expected = tiny.mutual_information(x[..., groups[i]], x[..., groups[j]])
        torch.testing.assert_close(matrix[..., i, j], expected, atol=1e-4, rtol=0)
    as_list = mutual_information_matrix([x[..., group] for group in groups], model=tiny)
    torch.testing.assert_close(as_list, matrix, equal_nan=True)


def test_matrix_of_columns_finds_the_pairs(trained: FlashMI) -> None:
    x = normal(400, 5)
    x[:, 4] = x[:, 0] ** 2 + 0.3 * x[:, 4]
    x[:, 2] += x[:, 3]
    matrix = mutual_information_matrix(x, model=trained)
    found = matrix > 0.15
    assert [tuple(pair) for pair in found.triu().nonzero().tolist()] == [(0, 4), (2, 3)]
    assert matrix[~found].nan_to_num(0).abs().max() < 0.05


def test_matrix_tells_of_doubtful_pairs_in_a_few_warnings(tiny: FlashMI) -> None:
    x = normal(100, 3)
    x[:, 1] = 0
    with pytest.warns(SupportWarning, match="among the pairs: .*constant") as caught:
        mutual_information_matrix(x, model=tiny)
    assert 1 <= len(caught) <= 4


def test_matrix_shows_no_progress_off_a_terminal(
    tiny: FlashMI, capfd: pytest.CaptureFixture[str]
) -> None:
    mutual_information_matrix(normal(60, 3), model=tiny)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("function", [mutual_information_matrix, total_correlation])
@pytest.mark.parametrize(
    ("x", "groups", "message"),
    [
        (normal(100, 1), None, "at least two variables, received 1"),
        ([], None, "at least two variables, received 0"),
        (normal(100, 3), [[0], [1, 3]], r"`groups` must hold columns from 0 to 2.*\(1, 3\)"),
        (normal(100, 3), [[0], []], r"`groups` must hold columns"),
        (normal(100, 3), [[0], [1, 1]], r"`groups` must hold columns.*each once"),
        (normal(100, 3), [[0, 1], [2, 1]], r"`groups` has column 1 twice"),
        ([normal(100, 1), normal(99, 1)], None, r"`x\[1\]` must have the samples of `x\[0\]`"),
        ([normal(100, 1), normal(100)], None, r"`x\[1\]` must be .*\(100,\)"),
        ([normal(100, 1), normal(100, 1)], [[0], [1]], "`groups` must be None"),
        ({"a": normal(100, 1)}, None, "`x` must be a torch.Tensor or a list"),
        (normal(100), None, "`x` must have shape"),
        (normal(20, 3), None, "n = 20"),
        (normal(100, 70), [range(66), range(66, 70)], "between 66 and 4 columns: .*66 coord"),
    ],
)
def test_variables_that_cannot_be_used_are_refused(
    tiny: FlashMI, function: Callable[..., Tensor], x: object, groups: object, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        function(x, groups, model=tiny)


# --- pointwise --------------------------------------------------------------------------------


def test_pointwise_information_follows_the_density_ratio() -> None:
    x, noise = normal(2, 1000, 1).double()
    y = x + noise
    pmi = pointwise_mutual_information(x, y)
    expected = (0.5 * math.log(2) - 0.5 * noise**2 + 0.25 * y**2)[:, 0]
    assert pmi.shape == (1000,)
    assert torch.corrcoef(torch.stack([pmi.double(), expected]))[0, 1] > 0.9
    assert (pmi - expected).mean().item() == pytest.approx(0, abs=0.05)


def test_pointwise_information_is_differentiable_in_the_points() -> None:
    x = normal(2, 100, 2).requires_grad_()
    pmi = pointwise_mutual_information(x, x.detach() + normal(2, 100, 2, seed=1))
    assert pmi.shape == (2, 100)
    pmi.sum().backward()
    assert x.grad.isfinite().all()
    assert (x.grad != 0).any()


# --- independence -----------------------------------------------------------------------------


def test_dependence_without_correlation_is_found(trained: FlashMI) -> None:
    x, noise = normal(2, 150, 1)
    found = independence_test(x, x**2 + 0.5 * noise, permutations=19, model=trained)
    assert found.p_value == 1 / 20
    assert found.null.shape == (19,)
    assert found.value > found.null.max()
    assert "19 permutations" in str(found)
    assert "p = 0.05" in str(found)


def test_p_values_of_independent_sides_are_uniform(tiny: FlashMI) -> None:
    x, y = normal(2, 40, 50, 1)
    found = independence_test(x, y, permutations=9, model=tiny)
    assert found.value.shape == found.p_value.shape == (40,)
    assert found.null.shape == (40, 9)
    ranks = (10 * found.p_value).round()
    assert ranks.min() >= 1
    assert ranks.max() <= 10
    assert found.p_value.mean().item() == pytest.approx(0.55, abs=3 * 0.29 / 40**0.5)
    assert (found.p_value <= 0.1).double().mean() < 0.1 + 3 * (0.09 / 40) ** 0.5


def test_value_of_the_test_is_the_estimate_and_chunks_do_not_matter(
    tiny: FlashMI, monkeypatch: pytest.MonkeyPatch
) -> None:
    x, y = normal(2, 2, 60, 3)
    expected = tiny.mutual_information(x, y)
    whole = independence_test(x, y, permutations=7, model=tiny)
    monkeypatch.setattr(batches, "CHUNK", 300)
    parts = independence_test(x, y, permutations=7, model=tiny)
    for found in (whole, parts):
        torch.testing.assert_close(found.value, expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(parts.null, whole.null, atol=1e-5, rtol=0)
    alone = independence_test(x[1], y[1], permutations=7, model=tiny)
    torch.testing.assert_close(alone.null, whole.null[1], atol=1e-5, rtol=0)
    assert alone.p_value.shape == ()


def test_constant_side_is_independent_of_everything(tiny: FlashMI) -> None:
    assert independence_test(torch.ones(60, 2), normal(60, 2), 9, model=tiny).p_value == 1


def test_permutations_come_from_the_generator_alone(tiny: FlashMI) -> None:
    x, y = normal(2, 60, 1)
    before = torch.random.get_rng_state()
    nulls = [
        independence_test(x, y, 5, generator=g, model=tiny).null
        for g in (None, None, seeded(1), seeded(1), seeded(2))
    ]
    assert torch.equal(nulls[0], nulls[1])
    assert torch.equal(nulls[2], nulls[3])
    assert not torch.equal(nulls[2], nulls[4])
    assert torch.equal(torch.random.get_rng_state(), before)


def test_arguments_of_the_test_are_checked(tiny: FlashMI) -> None:
    with pytest.raises(InputError, match="`permutations` must be a positive integer, received 0"):
        independence_test(normal(100, 1), normal(100, 1), 0, model=tiny)
    with pytest.raises(InputError, match="66 coordinates"):
        independence_test(normal(100, 66), normal(100, 1), model=tiny)


# --- what all share ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "function",
    [
        lambda x, y, **kw: conditional_mutual_information(x, y, x.abs(), **kw),
        lambda x, y, **kw: total_correlation([x, y, x.abs()], **kw),
    ],
    ids=["conditional", "total"],
)
def test_generator_seeds_all_parts_alike(tiny: FlashMI, function: Callable[..., Tensor]) -> None:
    x, y = normal(2, 100, 2)
    values = [
        function(x, y, generator=g, model=tiny)
        for g in (None, None, seeded(1), seeded(1), seeded(2))
    ]
    assert values[0] == values[1]
    assert values[2] == values[3]
    assert values[2] != values[4]
