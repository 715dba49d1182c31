"""What cannot be used is refused by name; what is doubtful comes with a warning."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import event, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch import Tensor

from flashmi_reg import FlashMI, MutualInformationLoss, errors
from flashmi_reg.errors import InputError, SupportWarning


def good(n: int = 100, d: int = 2, seed: int = 0) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


def spoilt(value: float) -> Tensor:
    x = good()
    x[3, 1] = x[50, 0] = value
    return x


# Each bad first argument with what its message must name: what was received, and a remedy.
BAD: dict[str, tuple[Callable[[], Any], str, str]] = {
    "NaN": (lambda: spoilt(float("nan")), "2 NaN or infinite", "remove or impute"),
    "infinite": (lambda: spoilt(float("inf")), "2 NaN or infinite", "remove or impute"),
    "minus infinite": (lambda: spoilt(-float("inf")), "2 NaN or infinite", "remove or impute"),
    "no samples": (lambda: good(0), "(0, 2)", "empty"),
    "no columns": (lambda: good(100, 0), "(100, 0)", "empty"),
    "no data sets": (lambda: good()[None][:0], "(0, 100, 2)", "empty"),
    "integers": (lambda: torch.ones(100, 2, dtype=torch.int64), "torch.int64", ".float()"),
    "booleans": (lambda: torch.ones(100, 2, dtype=torch.bool), "torch.bool", ".float()"),
    "complex": (lambda: good().to(torch.complex64), "torch.complex64", "real"),
    "one dimension": (lambda: good()[:, 0], "(100,)", "[:, None]"),
    "no dimension": (lambda: torch.tensor(1.0), "()", "(n, d) or (b, n, d)"),
    "four dimensions": (lambda: good()[None, None], "(1, 1, 100, 2)", "(n, d) or (b, n, d)"),
    "numpy": (lambda: good().numpy(), "ndarray", "torch.Tensor"),
    "a list": (lambda: good().tolist(), "list", "torch.Tensor"),
    "nothing": (lambda: None, "NoneType", "torch.Tensor"),
    "too wide": (lambda: good(100, 65), "65 coordinates", "project or select"),
    "on no device": (lambda: good().to("meta"), "meta", "device"),
    "sparse": (lambda: good().to_sparse(), "torch.sparse_coo", "to_dense()"),
}


@pytest.mark.parametrize("method", ["mutual_information", "estimate", "critic"])
@pytest.mark.parametrize("side", ["x", "y"])
@pytest.mark.parametrize("kind", BAD)
def test_unusable_side_is_refused_by_name(tiny: FlashMI, kind: str, side: str, method: str) -> None:
    make, received, remedy = BAD[kind]
    sides = {"x": good(), "y": good(seed=1)} | {side: make()}
    with pytest.raises(InputError) as caught:
        getattr(tiny, method)(**sides)
    message = str(caught.value)
    assert f"`{side}`" in message
    assert received in message
    assert remedy in message


PAIRS: dict[str, tuple[Tensor, Tensor, list[str]]] = {
    "other n": (good(100), good(99), ["(100, 2)", "(99, 2)", "sample by sample"]),
    "other batch": (
        good()[None],
        good().expand(2, -1, -1),
        ["(1, 100, 2)", "(2, 100, 2)", "sample by sample"],
    ),
    "one batched": (good()[None], good(), ["(1, 100, 2)", "(100, 2)", "sample by sample"]),
    "too few": (good(49), good(49), ["n = 49", "n >= 50", "more samples"]),
    "two devices": (good(), good().to("meta"), ["meta", "`y`", "device"]),
}


@pytest.mark.parametrize("kind", PAIRS)
def test_sides_that_do_not_fit_are_refused(tiny: FlashMI, kind: str) -> None:
    x, y, parts = PAIRS[kind]
    with pytest.raises(InputError) as caught:
        tiny.mutual_information(x, y)
    for part in ["`y`", *parts]:
        assert part in str(caught.value)


@pytest.mark.parametrize("choice", ["fully", "", None, 3, ["critic"]])
def test_unknown_gradient_mode_is_refused(tiny: FlashMI, choice: Any) -> None:
    with pytest.raises(InputError, match=r"`gradient`.*'critic'.*'full'") as caught:
        tiny.mutual_information(good(), good(), gradient=choice)
    assert repr(choice) in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "name", "choices"),
    [
        ({"direction": "minimise"}, "direction", ("minimize", "maximize")),
        ({"direction": 1}, "direction", ("minimize", "maximize")),
        ({"direction": "minimize", "gradient": "both"}, "gradient", ("critic", "full")),
        ({"direction": "minimize", "reduction": "max"}, "reduction", ("mean", "sum", "none")),
        ({"direction": "minimize", "reduction": None}, "reduction", ("mean", "sum", "none")),
    ],
)
def test_unknown_choice_of_a_loss_is_refused(
    tiny_path: Any, arguments: dict[str, Any], name: str, choices: tuple[str, ...]
) -> None:
    with pytest.raises(InputError) as caught:
        MutualInformationLoss(**arguments, weights=tiny_path)
    message = str(caught.value)
    for part in [f"`{name}`", repr(arguments[name]), *choices]:
        assert part in message


@pytest.mark.parametrize("dtype", [torch.float16, torch.int64])
def test_precision_beyond_the_offered_is_refused(tiny: FlashMI, dtype: torch.dtype) -> None:
    with pytest.raises(InputError, match=r"`dtype`.*float32.*float64") as caught:
        tiny.to(dtype=dtype)
    assert str(dtype) in str(caught.value)


def test_input_error_is_a_value_error_and_ours() -> None:
    assert issubclass(InputError, (ValueError, errors.FlashMIError))
    assert issubclass(InputError, ValueError)


def test_smallest_and_widest_allowed_data_are_accepted(tiny: FlashMI) -> None:
    assert tiny.mutual_information(good(50, 10), good(50, 1)).isfinite()


# --- warnings ---------------------------------------------------------------------------------


def one_hot(classes: int) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.eye(classes)[torch.randint(classes, (100,), generator=generator)]


DOUBTFUL: dict[str, tuple[Callable[[], tuple[Tensor, Tensor]], list[str]]] = {
    "constant column": (
        lambda: (torch.cat([good(), torch.ones(100, 1)], 1), good(seed=1)),
        ["`x`", "constant", "[2]"],
    ),
    "constant side": (lambda: (good(), torch.zeros(100, 1)), ["`y`", "constant", "[0]"]),
    "heavy ties": (lambda: (good().round(), good(seed=1)), ["`x`", "tied", "[0, 1]", "continuous"]),
    "a fifth tied": (
        lambda: (good().where(torch.arange(100)[:, None] >= 20, 0.3), good(seed=1)),
        ["`x`", "tied", "20%"],
    ),
    "labels": (lambda: (good(), one_hot(4)), ["`y`", "tied", "[0, 1, 2, 3]", "100%"]),
    "ties in one column": (
        lambda: (good(), torch.stack([good()[:, 0], good()[:, 1].sign()], 1)),
        ["`y`", "tied", "[1]"],
    ),
    "the same": (lambda: (good(), good()), ["determined", "underestimated"]),
    "a linear map": (
        lambda: (good(200, 3), good(200, 3) @ torch.eye(3)[:, [2, 0]]),
        ["determined", "underestimated"],
    ),
    "more nats than in training": (
        lambda: (good(200, 5), good(200, 5) + 1e-3 * good(200, 5, seed=1)),
        ["beyond 4 nats"],
    ),
}


@pytest.mark.parametrize("kind", DOUBTFUL)
def test_doubtful_data_warn(tiny: FlashMI, kind: str) -> None:
    make, parts = DOUBTFUL[kind]
    x, y = make()
    with pytest.warns(SupportWarning) as caught:
        value = tiny.mutual_information(x, y)
    assert value.isfinite()
    messages = [str(warning.message) for warning in caught]
    assert any(all(part in message for part in parts) for message in messages), messages
    assert caught[0].filename == __file__  # the user's line, not one of ours


@pytest.mark.parametrize("kind", DOUBTFUL)
def test_estimate_tells_the_same_without_warning(tiny: FlashMI, kind: str) -> None:
    x, y = DOUBTFUL[kind][0]()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = tiny.estimate(x, y).warnings
    with pytest.warns(SupportWarning) as caught:
        tiny.mutual_information(x, y)
    assert list(found) == [str(warning.message) for warning in caught]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("dx", "dy"), [(1, 1), (3, 2), (10, 10)])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_ordinary_data_do_not_warn(
    tiny: FlashMI, dx: int, dy: int, seed: int, dtype: torch.dtype
) -> None:
    x = good(400, dx, seed)
    y = good(400, dy, seed + 10) + x[:, :1]
    if dtype == torch.bfloat16:  # its eight bits tie many of 400 normal samples
        x, y = (side[:60].argsort(0).float() for side in (x, y))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tiny.mutual_information(x.to(dtype), y.to(dtype))


def test_a_few_ties_do_not_warn(tiny: FlashMI) -> None:
    x = good()
    x[:4] = x[4:8].clone()  # 8 % of the samples have an equal
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tiny.mutual_information(x[:, :1], good(seed=1))


# --- anything at all --------------------------------------------------------------------------

DTYPES = [
    torch.float16,
    torch.bfloat16,
    torch.float32,
    torch.float64,
    torch.int32,
    torch.bool,
    torch.complex64,
]
SHAPES = st.one_of(
    st.tuples(st.sampled_from([50, 53, 64]), st.integers(1, 4)),
    st.tuples(st.integers(1, 2), st.just(50), st.integers(1, 3)),
    st.lists(st.integers(0, 60), min_size=0, max_size=4).map(tuple).filter(lambda s: len(s) != 2),
    st.tuples(st.integers(0, 60), st.integers(0, 12)),
)
ENTRIES = [
    st.floats(-1e3, 1e3, width=32),
    st.floats(width=32),
    st.integers(-2, 2).map(float),
    st.sampled_from([0.0, 1e-30, -1e-30, 3e38, -3e38, 65504.0, 1e-45]),
]


@st.composite
def anything(draw: st.DrawFn) -> tuple[Tensor, Tensor]:
    shape = draw(SHAPES)
    other = shape
    if shape and draw(st.booleans()):
        other = (*shape[:-1], draw(st.integers(1, 4)))
    if draw(st.integers(0, 9)) == 0:
        other = draw(SHAPES)
    sides = []
    for s in (shape, other):
        values = draw(arrays("float32", s, elements=draw(st.sampled_from(ENTRIES))))
        dtype = draw(st.sampled_from(DTYPES[:4] if draw(st.integers(0, 3)) else DTYPES))
        sides.append(torch.from_numpy(values).to(dtype))
    if draw(st.booleans()) and sides[0].shape == sides[1].shape:
        sides[1] = sides[0].clone()
    return sides[0], sides[1]


@settings(max_examples=150, deadline=None, derandomize=True)
@given(sides=anything(), gradient=st.sampled_from(["critic", "full"]))
def test_any_data_give_a_finite_value_or_an_input_error(
    tiny: FlashMI, sides: tuple[Tensor, Tensor], gradient: str
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SupportWarning)
        try:
            value = tiny.mutual_information(*sides, gradient=gradient)
        except InputError:
            event("refused")
            return
    event("estimated")
    assert value.isfinite().all()


@pytest.mark.parametrize("n", [50, 53, 64, 100])
@pytest.mark.parametrize("weights", ["base", "small"])
def test_batches_of_constant_sides_are_finite_and_alike(weights: str, n: int) -> None:
    """All but nothing is left to decompose, on which LAPACK fails in single precision."""
    model = FlashMI.from_pretrained(weights)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SupportWarning)
        for d in (1, 2, 5):
            sides = torch.zeros(3, n, d)
            sides[0, 0, 0] = 1.0
            value = model.mutual_information(sides, sides.clone())
            assert value.isfinite().all()
            torch.testing.assert_close(value[1], value[2])


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    st.integers(50, 90),
    st.integers(1, 10),
    st.integers(1, 10),
    st.sampled_from([1e-20, 1.0, 1e20]),
    st.integers(0, 4),
    st.sampled_from(["critic", "full"]),
)
def test_usable_data_give_finite_values_and_gradients(
    tiny: FlashMI, n: int, dx: int, dy: int, scale: float, digits: int, gradient: str
) -> None:
    """Rounded to so few digits that ties, constants and duplicated rows abound."""
    x = (good(n, dx).mul(10**digits / 10).round() * scale).requires_grad_()
    y = (good(n, dy, seed=1) + x.detach()[:, :1] / scale).requires_grad_()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SupportWarning)
        value = tiny.mutual_information(x, y, gradient=gradient)
    value.backward()
    assert value.isfinite()
    assert x.grad.isfinite().all()
    assert y.grad.isfinite().all()
