"""FlashMI's contract: shapes, precision, invariances, determinism, gradients, sharing."""

from __future__ import annotations

import copy
import pickle
import warnings
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from flashmi_reg import FlashMI, MIEstimate
from flashmi_reg.errors import SupportWarning

WIDTHS = [(1, 1), (2, 2), (2, 5), (5, 2), (10, 10), (1, 10)]
GRADIENTS = ["critic", "full"]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def dependent(n: int, dx: int, dy: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> tuple:
    generator = seeded(seed)
    common, x, y = (torch.randn(n, d, generator=generator, dtype=dtype) for d in (1, dx, dy))
    return x + common, (y + common) ** 3 + common**2


# --- shapes and precision ---------------------------------------------------------------------


@pytest.mark.parametrize(("dx", "dy"), WIDTHS)
def test_one_data_set_has_one_value_and_a_batch_one_each(tiny: FlashMI, dx: int, dy: int) -> None:
    x, y = dependent(100, dx, dy)
    assert tiny.mutual_information(x, y).shape == ()
    assert tiny.mutual_information(x[None], y[None]).shape == (1,)
    assert tiny.mutual_information(*(s.expand(3, -1, -1) for s in (x, y))).shape == (3,)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("gradient", GRADIENTS)
def test_every_precision_gives_about_one_value(
    tiny: FlashMI, dtype: torch.dtype, gradient: str
) -> None:
    x, y = dependent(400, 2, 2)
    expected = tiny.mutual_information(x, y)
    x, y = (side.to(dtype).requires_grad_() for side in (x, y))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SupportWarning)  # low precision ties values
        value = tiny.mutual_information(x, y, gradient=gradient)
    assert value.dtype == torch.promote_types(dtype, torch.float32)
    assert value.item() == pytest.approx(expected.item(), abs=0.03)
    value.backward()
    for side in (x, y):
        assert side.grad.dtype == dtype
        assert side.grad.isfinite().all()
        assert (side.grad != 0).any()


def test_sides_may_be_of_two_precisions(tiny: FlashMI) -> None:
    x, y = dependent(200, 2, 2)
    expected = tiny.mutual_information(x, y)
    for mixed in ((x.double(), y), (x, y.double())):
        value = tiny.mutual_information(*mixed)
        assert value.dtype == torch.float64
        assert value.item() == pytest.approx(expected.item(), abs=1e-3)


def test_model_in_float64_agrees_with_that_in_float32(tiny: FlashMI) -> None:
    x, y = dependent(200, 3, 2)
    double = tiny.to(dtype=torch.float64)
    expected = tiny.mutual_information(x, y)
    value = double.mutual_information(x.double(), y.double())
    assert value.item() == pytest.approx(expected.item(), abs=1e-3)
    assert torch.equal(tiny.mutual_information(x, y), expected)  # the copy is a copy


def test_strided_and_expanded_inputs_are_read_as_they_are(tiny: FlashMI) -> None:
    x, y = dependent(200, 3, 2)
    expected = tiny.mutual_information(x, y)
    wide = torch.zeros(400, 6)
    wide[::2, ::2] = x
    assert torch.equal(tiny.mutual_information(wide[::2, ::2], y.T.contiguous().T), expected)


# --- invariances ------------------------------------------------------------------------------


@pytest.mark.parametrize(("dx", "dy"), WIDTHS)
@pytest.mark.parametrize("n", [60, 500, 3000])
def test_batch_gives_what_its_data_sets_give(tiny: FlashMI, dx: int, dy: int, n: int) -> None:
    sets = [dependent(n, dx, dy, seed) for seed in range(3)]
    together = tiny.mutual_information(*map(torch.stack, zip(*sets, strict=True)))
    alone = torch.stack([tiny.mutual_information(*pair) for pair in sets])
    # The scores of two single variables have equal moments, so that which of them comes first,
    # and their signs, are settled by rounding, which a batch does in another order.
    tolerance = 0.02 if dx == dy == 1 else 2e-4
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=tolerance)


@pytest.mark.parametrize(("dx", "dy"), WIDTHS)
@pytest.mark.parametrize("n", [60, 500, 9000])
def test_order_of_the_samples_changes_no_bit(tiny: FlashMI, dx: int, dy: int, n: int) -> None:
    for seed in range(3 if n > 500 else 10):
        x, y = dependent(n, dx, dy, seed)
        order = torch.randperm(n, generator=seeded(seed))
        one = tiny.mutual_information(x, y, generator=seeded(5))
        other = tiny.mutual_information(x[order], y[order], generator=seeded(5))
        assert torch.equal(one, other)


@pytest.mark.parametrize(("dx", "dy"), WIDTHS)
@pytest.mark.parametrize("n", [60, 500, 9000])
def test_exchanging_the_sides_changes_no_bit(tiny: FlashMI, dx: int, dy: int, n: int) -> None:
    for seed in range(3 if n > 500 else 10):
        x, y = dependent(n, dx, dy, seed)
        assert torch.equal(tiny.mutual_information(x, y), tiny.mutual_information(y, x))


def test_invariances_hold_for_each_data_set_of_a_batch(tiny: FlashMI) -> None:
    sets = [dependent(100, 2, 2, seed) for seed in range(8)]
    x, y = map(torch.stack, zip(*sets, strict=True))
    order = torch.randperm(100, generator=seeded())
    expected = tiny.mutual_information(x, y)
    assert torch.equal(tiny.mutual_information(y[:, order], x[:, order]), expected)


@pytest.mark.parametrize(("dx", "dy"), WIDTHS)
def test_monotone_maps_of_coordinates_change_no_bit(tiny: FlashMI, dx: int, dy: int) -> None:
    x, y = dependent(300, dx, dy, dtype=torch.float64)
    expected = tiny.mutual_information(x, y)
    assert torch.equal(tiny.mutual_information(x.exp(), y), expected)
    assert torch.equal(tiny.mutual_information(x.atan(), 1e3 * y - 5), expected)


def test_order_of_the_coordinates_hardly_matters(tiny: FlashMI) -> None:
    x, y = dependent(2000, 4, 3)
    expected = tiny.mutual_information(x, y)
    value = tiny.mutual_information(x.flip(-1), y.roll(1, -1))
    assert value.item() == pytest.approx(expected.item(), abs=0.03)


def test_inputs_are_left_as_they_were(tiny: FlashMI) -> None:
    x, y = dependent(100, 2, 2)
    kept = x.clone(), y.clone()
    tiny.mutual_information(x, y)
    tiny.critic(x, y)(x, y)
    assert torch.equal(x, kept[0])
    assert torch.equal(y, kept[1])


# --- randomness -------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [60, 500, 9000])
@pytest.mark.parametrize("gradient", GRADIENTS)
def test_equal_input_gives_equal_bits(tiny: FlashMI, n: int, gradient: str) -> None:
    results = []
    for _ in range(2):
        x, y = (side.requires_grad_() for side in dependent(n, 2, 3))
        value = tiny.mutual_information(x, y, gradient=gradient)
        value.backward()
        results.append((value, x.grad, y.grad))
        torch.rand(17)  # what else draws random numbers must not matter
    for one, other in zip(*results, strict=True):
        assert torch.equal(one, other)


def test_generator_draws_the_shuffled_pairs(tiny: FlashMI) -> None:
    x, y = dependent(100, 2, 3)
    values = [tiny.mutual_information(x, y, generator=seeded(seed)) for seed in (1, 1, 2)]
    assert torch.equal(values[0], values[1])
    assert not torch.equal(values[0], values[2])
    advancing = seeded(1)
    first, second = (tiny.mutual_information(x, y, generator=advancing) for _ in range(2))
    assert torch.equal(first, values[0])
    assert not torch.equal(second, first)


@pytest.mark.parametrize("n", [100, 9000])
def test_global_random_state_is_left_alone(tiny: FlashMI, n: int) -> None:
    x, y = dependent(n, 2, 3)
    before = torch.get_rng_state()
    tiny.mutual_information(x, y)
    tiny.estimate(x, y, generator=seeded(1))
    tiny.critic(x, y)(x, y)
    assert torch.equal(torch.get_rng_state(), before)


def test_autocast_changes_no_bit(tiny: FlashMI) -> None:
    x, y = dependent(200, 2, 3)
    plain = tiny.mutual_information(x, y), tiny.critic(x, y)(x, y)
    with torch.autocast("cpu", torch.bfloat16):
        cast = tiny.mutual_information(x, y), tiny.critic(x, y)(x, y)
    assert torch.equal(cast[0], plain[0])
    assert torch.equal(cast[1], plain[1])


# --- gradients --------------------------------------------------------------------------------


@pytest.mark.parametrize(("dx", "dy"), WIDTHS)
def test_both_gradient_modes_have_one_value(tiny: FlashMI, dx: int, dy: int) -> None:
    x, y = dependent(300, dx, dy)
    x.requires_grad_()
    values = [tiny.mutual_information(x, y, gradient=gradient) for gradient in GRADIENTS]
    torch.testing.assert_close(*values, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("gradient", GRADIENTS)
def test_gradient_flows_into_whichever_side_asks(tiny: FlashMI, gradient: str) -> None:
    x, y = dependent(100, 2, 3)
    value = tiny.mutual_information(x, y, gradient=gradient)
    assert not value.requires_grad
    for i in range(2):
        sides = [x.clone(), y.clone()]
        sides[i].requires_grad_()
        tiny.mutual_information(*sides, gradient=gradient).backward()
        assert (sides[i].grad != 0).any()
        assert sides[1 - i].grad is None


@pytest.mark.parametrize("gradient", GRADIENTS)
def test_gradient_of_a_batch_is_that_of_its_data_sets(tiny: FlashMI, gradient: str) -> None:
    sets = [dependent(100, 2, 3, seed) for seed in range(2)]
    x, y = map(torch.stack, zip(*sets, strict=True))
    x.requires_grad_()
    tiny.mutual_information(x, y, gradient=gradient).sum().backward()
    for i, (own, other) in enumerate(sets):
        own.requires_grad_()
        tiny.mutual_information(own, other, gradient=gradient).backward()
        assert torch.cosine_similarity(x.grad[i].flatten(), own.grad.flatten(), dim=0) > 0.999


@pytest.mark.parametrize("gradient", GRADIENTS)
def test_step_along_the_gradient_raises_the_estimate(tiny: FlashMI, gradient: str) -> None:
    raised = 0
    for seed in range(10):
        x, y = dependent(400, 2, 2, seed)
        x.requires_grad_()
        before = tiny.mutual_information(x, y, gradient=gradient)
        before.backward()
        step = 0.1 * x.grad / x.grad.norm(dim=-1, keepdim=True).mean()
        raised += int(tiny.mutual_information((x + step).detach(), y) > before)
    assert raised >= 9


def awkward(kind: str, n: int) -> tuple[Tensor, Tensor]:
    x, y = dependent(n, 3, 2)
    match kind:
        case "ties":
            x, y = x.round(), (y / 10).round()
        case "a constant column":
            x[:, 1] = 0.5
        case "a constant side":
            x = torch.full_like(x, 2.0)
        case "both sides constant":
            x, y = torch.zeros_like(x), torch.ones_like(y)
        case "duplicated rows":
            x, y = x[: n // 5].repeat(5, 1), y[: n // 5].repeat(5, 1)
        case "duplicated columns":
            x = x[:, :1].expand(-1, 3).clone()
        case "identical features":
            x, y = x[:1].expand(n, -1).clone(), y[:1].expand(n, -1).clone()
        case "nearly identical features":
            x = x[:1] + 1e-6 * x
        case "two values":
            x, y = x.sign(), y.sign()
        case "the same sides":
            y = x.clone()
        case "opposite sides":
            y = -x
        case "gaps of 1e-30":
            x[: n // 2] *= 1e-30
    return x, y


@pytest.mark.filterwarnings("ignore::flashmi_reg.errors.SupportWarning")
@pytest.mark.parametrize("n", [50, 500])
@pytest.mark.parametrize("gradient", GRADIENTS)
@pytest.mark.parametrize(
    "kind",
    [
        "ordinary",
        "ties",
        "a constant column",
        "a constant side",
        "both sides constant",
        "duplicated rows",
        "duplicated columns",
        "identical features",
        "nearly identical features",
        "two values",
        "the same sides",
        "opposite sides",
        "gaps of 1e-30",
    ],
)
def test_value_and_gradient_of_awkward_data_are_finite(
    tiny: FlashMI, kind: str, gradient: str, n: int
) -> None:
    x, y = (side.requires_grad_() for side in awkward(kind, n))
    value = tiny.mutual_information(x, y, gradient=gradient)
    value.backward()
    assert value.isfinite()
    assert x.grad.isfinite().all()
    assert y.grad.isfinite().all()
    if "constant side" in kind or kind in ("both sides constant", "identical features"):
        assert abs(value.item()) < 0.02  # a constant tells nothing


# --- what else it offers ----------------------------------------------------------------------


def test_estimate_is_the_value_with_its_circumstances(tiny: FlashMI) -> None:
    x, y = dependent(100, 2, 3)
    found = tiny.estimate(x.requires_grad_(), y, generator=seeded(3))
    assert isinstance(found, MIEstimate)
    assert not found.value.requires_grad
    assert torch.equal(found.value, tiny.mutual_information(x.detach(), y, generator=seeded(3)))
    assert (found.n, found.dx, found.dy, found.warnings) == (100, 2, 3, ())
    assert f"{found.value:.3f} nats (n = 100, 2 + 3 dimensions)" in str(found)


def test_estimate_of_a_batch_prints_its_first_values(tiny: FlashMI) -> None:
    x, y = (side.expand(8, -1, -1) for side in dependent(100, 2, 3))
    found = tiny.estimate(x, y)
    assert found.value.shape == (8,)
    assert ", …" in str(found)


def test_warning_is_printed_with_the_estimate(tiny: FlashMI) -> None:
    assert "warning: `y` is constant" in str(tiny.estimate(torch.randn(60, 1), torch.zeros(60, 1)))


def test_model_adds_nothing_to_a_module_that_holds_it(tiny: FlashMI) -> None:
    module = nn.Module()
    module.estimator = tiny
    module.train().to(torch.float64)
    assert list(module.parameters()) == []
    assert module.state_dict() == {}
    assert not any(weight.requires_grad for weight in tiny._network.parameters())
    assert not tiny._network.training
    assert tiny.mutual_information(*dependent(100, 1, 1)).dtype == torch.float32


def test_copies_share_the_network(tiny: FlashMI) -> None:
    assert copy.copy(tiny) is tiny
    assert copy.deepcopy(tiny) is tiny
    assert copy.deepcopy({"model": [tiny]})["model"][0] is tiny


def test_pickled_model_gives_the_same_bits(tiny: FlashMI) -> None:
    x, y = dependent(100, 2, 3)
    loaded = pickle.loads(pickle.dumps(tiny))
    assert torch.equal(loaded.mutual_information(x, y), tiny.mutual_information(x, y))


def test_pickled_packaged_model_is_a_name_and_unpickles_to_the_shared_one() -> None:
    model = FlashMI.from_pretrained("base")
    content = pickle.dumps(model)
    assert len(content) < 1000
    assert pickle.loads(content) is model


@pytest.mark.parametrize("gradient", GRADIENTS)
def test_model_loaded_in_inference_mode_serves_training(tiny_path: Path, gradient: str) -> None:
    x, y = dependent(100, 2, 3)
    with torch.inference_mode():
        model = FlashMI.from_pretrained(tiny_path)
        expected = model.mutual_information(x, y)
        expected = expected.item()
    x.requires_grad_()
    value = model.mutual_information(x, y, gradient=gradient)
    value.backward()
    assert value.item() == pytest.approx(expected, abs=1e-4)
    assert x.grad.isfinite().all()


def test_values_without_gradients_may_enter_a_loss(tiny: FlashMI) -> None:
    x, y = dependent(100, 2, 3)
    told = tiny.estimate(x, y)
    weight = torch.ones((), requires_grad=True)
    for value in (tiny.mutual_information(x, y), told.value):
        (weight * value).backward()
        value.add_(1)
    assert weight.grad is not None


def test_representation_tells_the_trained_ranges(tiny: FlashMI) -> None:
    assert repr(tiny) == "FlashMI(custom, steps=0, n=(50, 8192), width=(1, 10))"
    assert repr(FlashMI.from_pretrained("base")).startswith("FlashMI(base, ")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("gradient", GRADIENTS)
@pytest.mark.parametrize("n", [300, 9000])
def test_cuda_gives_what_the_cpu_gives(tiny: FlashMI, n: int, gradient: str) -> None:
    x, y = dependent(n, 2, 3)
    expected = tiny.mutual_information(x, y)
    x, y = x.cuda().requires_grad_(), y.cuda()
    value = tiny.mutual_information(x, y, gradient=gradient)
    value.backward()
    assert value.device == x.device
    assert value.item() == pytest.approx(expected.item(), abs=1e-2)
    assert x.grad.isfinite().all()
    own = torch.Generator("cuda").manual_seed(0)
    assert tiny.mutual_information(x, y, generator=own).isfinite()
    assert tiny.critic(x, y)(x, y).device == x.device
