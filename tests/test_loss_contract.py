"""One contract for all losses: what holds of one must hold of every other."""

from __future__ import annotations

import copy
import io
import pickle
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn

from flashmi_reg import (
    ConditionalMutualInformationLoss,
    InformationBottleneckLoss,
    MutualInformationLoss,
    SlicedMutualInformationLoss,
    TotalCorrelationLoss,
)
from flashmi_reg.errors import InputError, SupportWarning
from flashmi_reg.information_loss import InformationLoss
from flashmi_reg.ranks import gather_ranks


class Case(NamedTuple):
    """A loss and what it is called with.

    Attributes:
        make: the loss from its shared arguments.
        widths: of its continuous arguments.
        classes: whether integer labels follow them.
        value: the loss of one data set from its terms, by their names.
        random: whether anything is drawn for so few samples.
    """

    make: Callable[..., InformationLoss]
    widths: tuple[int, ...]
    classes: bool
    value: Callable[[Any], Tensor]
    random: bool = True

    def inputs(self, n: int | None = None, b: int | None = None, seed: int = 0) -> list[Tensor]:
        n = n or (100 if self.classes else 60)
        generator = torch.Generator().manual_seed(seed)
        shape = (n,) if b is None else (b, n)
        common = torch.randn(*shape, 1, generator=generator)
        sides = [torch.randn(*shape, d, generator=generator) + common for d in self.widths]
        labels = (torch.arange(n) % 2).expand(shape)
        return [*sides, labels] if self.classes else sides

    def tracked(
        self, *args: Any, dtype: torch.dtype = torch.float32, **kwargs: Any
    ) -> list[Tensor]:
        return [
            side.to(dtype).requires_grad_() if side.is_floating_point() else side
            for side in self.inputs(*args, **kwargs)
        ]


def minimised(loss: type[InformationLoss], **own: Any) -> Callable[..., InformationLoss]:
    return lambda **shared: loss("minimize", **own, **shared)  # type: ignore[call-arg]


def maximised(loss: type[InformationLoss], **own: Any) -> Callable[..., InformationLoss]:
    return lambda **shared: loss("maximize", **own, **shared)  # type: ignore[call-arg]


def bottleneck(**shared: Any) -> InformationLoss:
    return InformationBottleneckLoss(0.3, **shared)


CASES = {
    "mutual": Case(minimised(MutualInformationLoss), (3, 2), False, lambda t: t.information),
    "sliced": Case(
        minimised(SlicedMutualInformationLoss, k=2, n_slices=3),
        (12, 3),
        False,
        lambda t: t.information,
    ),
    "mutual of classes": Case(
        maximised(MutualInformationLoss), (3,), True, lambda t: -t.information, random=False
    ),
    "sliced of classes": Case(
        maximised(SlicedMutualInformationLoss, k=2, n_slices=3),
        (12,),
        True,
        lambda t: -t.information,
    ),
    "conditional": Case(
        minimised(ConditionalMutualInformationLoss),
        (2, 3, 1),
        False,
        lambda t: t.joint - t.given,
    ),
    "conditional on classes": Case(
        maximised(ConditionalMutualInformationLoss), (2, 3), True, lambda t: -t.information
    ),
    "bottleneck": Case(bottleneck, (4, 2, 1), False, lambda t: 0.3 * t.compression - t.relevance),
    "bottleneck of classes": Case(
        bottleneck, (4, 2), True, lambda t: 0.3 * t.compression - t.relevance
    ),
    "total correlation": Case(
        minimised(TotalCorrelationLoss), (4,), False, lambda t: t.splits.sum(-1)
    ),
    "total correlation of groups": Case(
        maximised(TotalCorrelationLoss, groups=[[0, 3], [1, 2], [4]]),
        (5,),
        False,
        lambda t: -t.splits.sum(-1),
    ),
}


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> Case:
    return CASES[request.param]


@pytest.fixture
def loss(case: Case, tiny_path: Path) -> InformationLoss:
    return case.make(weights=tiny_path)


class Model(nn.Module):
    """A user's model: a layer for each continuous input, and the loss of what they put out."""

    def __init__(self, case: Case, loss: InformationLoss) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.layers = nn.ModuleList(nn.Linear(d, d) for d in case.widths)
        self.loss = loss

    def forward(self, *inputs: Tensor) -> Tensor:
        count = len(self.layers)
        sides = [layer(side) for layer, side in zip(self.layers, inputs[:count], strict=True)]
        return self.loss(*sides, *inputs[count:])

    def gradients(self) -> list[Tensor]:
        return [layer.weight.grad for layer in self.layers]


# --- a module without a state -----------------------------------------------------------------


def test_loss_has_no_state_of_its_own(case: Case, loss: InformationLoss) -> None:
    frozen = {name: w.clone() for name, w in loss._model._network.state_dict().items()}
    model = Model(case, loss).double()
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.5)
    model(*(s.double() if s.is_floating_point() else s for s in case.inputs())).backward()
    optimizer.step()
    assert list(loss.parameters()) == list(loss.buffers()) == list(loss.children()) == []
    assert loss.state_dict() == {}
    loss.load_state_dict({})
    for name, weight in loss._model._network.state_dict().items():
        assert not weight.requires_grad
        assert torch.equal(weight, frozen[name])


def test_representation_names_the_settings(case: Case) -> None:
    text = repr(case.make(gradient="full", reduction="sum"))
    assert text.endswith("gradient='full', reduction='sum', weights='base')")
    assert text.startswith(type(case.make()).__name__ + "(")
    assert "\n" not in text


def test_representation_names_the_own_settings() -> None:
    common = "gradient='critic', reduction='mean', weights='base'"
    assert repr(InformationBottleneckLoss(0.5)) == f"InformationBottleneckLoss(beta=0.5, {common})"
    assert repr(SlicedMutualInformationLoss("maximize", k=(2, 3))) == (
        f"SlicedMutualInformationLoss('maximize', k=(2, 3), n_slices=32, {common})"
    )
    assert repr(TotalCorrelationLoss("minimize", groups=[[0], [1]])) == (
        f"TotalCorrelationLoss('minimize', groups=[[0], [1]], {common})"
    )


def saved_and_loaded(loss: InformationLoss) -> InformationLoss:
    file = io.BytesIO()
    torch.save(loss, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


def test_copies_compute_the_same_and_keep_the_terms(case: Case, loss: InformationLoss) -> None:
    expected = loss(*case.tracked())
    duplicates = (
        copy.copy,
        copy.deepcopy,
        saved_and_loaded,
        lambda x: pickle.loads(pickle.dumps(x)),
    )
    for duplicate in duplicates:
        other = duplicate(loss)
        assert repr(other) == repr(loss)
        assert type(other.terms) is type(loss.terms)
        for ours, theirs in zip(other.terms, loss.terms, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=0, atol=0, equal_nan=True)
    assert torch.equal(other(*case.tracked()), expected)


# --- values -----------------------------------------------------------------------------------


def test_reduction_is_over_data_sets(case: Case, tiny_path: Path) -> None:
    none, mean, total = (
        case.make(weights=tiny_path, reduction=how)(*case.tracked(b=2))
        for how in ("none", "mean", "sum")
    )
    assert none.shape == (2,)
    assert torch.equal(mean, none.mean())
    assert torch.equal(total, none.sum())
    for how in ("none", "sum"):  # one data set needs none
        alone = case.make(weights=tiny_path, reduction=how)(*(s[1] for s in case.tracked(b=2)))
        assert alone.shape == ()
        torch.testing.assert_close(alone, none[1], atol=1e-4, rtol=0)


def test_terms_tell_of_the_last_call(case: Case, tiny_path: Path) -> None:
    loss = case.make(weights=tiny_path, reduction="none")
    assert loss.terms is None
    for b in (None, 2):
        value = loss(*case.tracked(b=b))
        torch.testing.assert_close(case.value(loss.terms), value, atol=1e-6, rtol=0)
        assert not any(term.requires_grad for term in loss.terms)
        assert loss.terms._asdict().keys() == set(type(loss.terms)._fields)
    with torch.inference_mode():
        loss(*case.inputs())
    for ours, theirs in zip(copy.deepcopy(loss).terms, loss.terms, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0, equal_nan=True)


def test_train_and_eval_give_one_value_and_the_generator_another(
    case: Case, loss: InformationLoss
) -> None:
    inputs = case.tracked()
    before = torch.random.get_rng_state()
    expected = loss.train()(*inputs)
    assert torch.equal(loss.eval()(*inputs), expected)
    generator = torch.Generator().manual_seed(1)
    first, second = (loss(*inputs, generator=generator) for _ in range(2))
    assert (first != second) == case.random
    assert torch.equal(loss(*inputs, generator=torch.Generator().manual_seed(1)), first)
    assert torch.equal(torch.random.get_rng_state(), before)


# --- precision and gradients ------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore::flashmi_reg.errors.SupportWarning")  # low precision ties
def test_every_precision_gives_about_one_value_and_autocast_the_same(
    case: Case, loss: InformationLoss
) -> None:
    expected = loss(*case.tracked())
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(loss(*case.tracked()), expected)
    for dtype in (torch.float16, torch.bfloat16, torch.float64):
        inputs = case.tracked(dtype=dtype)
        value = loss(*inputs)
        assert value.dtype == torch.promote_types(dtype, torch.float32)
        assert value.item() == pytest.approx(expected.item(), abs=0.05)
        value.backward()
        for side in inputs[: len(case.widths)]:
            assert side.grad.dtype == dtype
            assert side.grad.isfinite().all()


@pytest.mark.parametrize(("gradient", "b"), [("critic", None), ("full", 2)])
def test_every_continuous_input_has_a_gradient(
    case: Case, tiny_path: Path, gradient: str, b: int | None
) -> None:
    inputs = case.tracked(b=b)
    case.make(weights=tiny_path, gradient=gradient)(*inputs).backward()
    for side in inputs[: len(case.widths)]:
        assert side.grad.shape == side.shape
        assert side.grad.isfinite().all()
        assert (side.grad != 0).any(-1).double().mean() > 0.9


def test_one_input_with_a_gradient_is_enough(case: Case, loss: InformationLoss) -> None:
    inputs = case.inputs()
    last = inputs[len(case.widths) - 1].requires_grad_()
    loss(*inputs).backward()
    assert (last.grad != 0).any()


def test_loss_that_cannot_train_anything_is_refused(case: Case, loss: InformationLoss) -> None:
    inputs = case.inputs()
    with pytest.raises(InputError, match=r"a gradient, so this loss cannot train.*`detach\(\)`"):
        loss(*inputs)
    assert loss.terms is None
    value = loss.eval()(*inputs)
    with torch.no_grad():
        assert torch.equal(loss.train()(*inputs), value)


DEGENERATE: dict[str, Callable[[Tensor], Tensor]] = {
    "constant": lambda side: torch.full_like(side, 0.3),
    "one column constant": lambda side: side * (torch.arange(side.shape[-1]) > 0),
    "tied": lambda side: side.round(),
    "two values": lambda side: (side > 0).to(side.dtype),
    "few rows": lambda side: side[torch.arange(len(side)) % 4],
    "one outlier": lambda side: side.index_fill(0, torch.tensor([5]), 1e6),
    "tiny": lambda side: 1e-20 * side,
    "huge": lambda side: 1e15 * side,
    "far off": lambda side: side + 1e6,
    "equal columns": lambda side: side[:, :1].expand_as(side),
}


@pytest.mark.filterwarnings("ignore::flashmi_reg.errors.SupportWarning")
@pytest.mark.parametrize("which", ["first", "all"])
def test_degenerate_inputs_give_finite_values_and_gradients(
    case: Case, tiny_path: Path, which: str
) -> None:
    """All kinds as the data sets of one batch."""
    loss = case.make(weights=tiny_path, reduction="none")
    count = len(case.widths) if which == "all" else 1
    inputs = case.inputs()
    for i, side in enumerate(inputs):
        kinds = [change(side) if i < count else side for change in DEGENERATE.values()]
        inputs[i] = torch.stack(kinds).requires_grad_(side.is_floating_point())
    values = loss(*inputs)
    failed = [kind for kind, value in zip(DEGENERATE, values, strict=True) if not value.isfinite()]
    assert failed == []
    values.sum().backward()
    for side in inputs[: len(case.widths)]:
        rows = zip(DEGENERATE, side.grad, strict=True)
        assert [kind for kind, gradient in rows if not gradient.isfinite().all()] == []


def test_copies_of_one_side_give_finite_values_and_gradients(
    case: Case, loss: InformationLoss
) -> None:
    """Information that is infinite in truth."""
    inputs = case.tracked()
    sides = [inputs[0][:, :d] for d in case.widths]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SupportWarning)
        value = loss(*sides, *inputs[len(sides) :])
    assert value.isfinite()
    value.backward()
    assert inputs[0].grad.isfinite().all()


def test_batch_below_the_least_n_is_refused(case: Case, loss: InformationLoss) -> None:
    with pytest.raises(InputError, match=r"n = 20|fewer than 50"):
        loss(*case.tracked(20))


@pytest.mark.parametrize(
    "arguments", [{"gradient": "none"}, {"reduction": "median"}, {"weights": "/nowhere"}]
)
def test_arguments_are_checked_at_once(case: Case, arguments: dict[str, str]) -> None:
    (value,) = arguments.values()
    with pytest.raises((InputError, RuntimeError), match=value):
        case.make(**arguments)


def test_direction_and_beta_are_checked() -> None:
    for loss in (MutualInformationLoss, TotalCorrelationLoss, ConditionalMutualInformationLoss):
        with pytest.raises(InputError, match="`direction` must be one of"):
            loss("down")  # type: ignore[arg-type]
    for beta in (-1, float("nan"), float("inf")):
        with pytest.raises(InputError, match="`beta` must be at least 0"):
            InformationBottleneckLoss(beta)


# --- the losses' own meaning ------------------------------------------------------------------


def test_training_does_what_the_loss_says(case: Case, tiny_path: Path) -> None:
    """Steps against the gradient lower the loss of the same samples."""
    loss = case.make(weights=tiny_path)
    inputs = case.tracked()
    optimizer = torch.optim.Adam([s for s in inputs if s.requires_grad], lr=0.05)
    start = loss(*inputs).item()
    for _ in range(2):
        optimizer.zero_grad()
        loss(*inputs).backward()
        optimizer.step()
    assert loss(*inputs).item() < start - 0.01


# --- compilers and processes ------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_compiled_model_computes_the_same(case: Case, tiny_path: Path, backend: str) -> None:
    torch.compiler.reset()
    plain, compiled = (Model(case, case.make(weights=tiny_path)) for _ in range(2))
    fast = torch.compile(compiled, backend=backend)
    for seed in range(2):
        expected, value = plain(*case.inputs(seed=seed)), fast(*case.inputs(seed=seed))
        assert value.item() == pytest.approx(expected.item(), abs=1e-5)
        for ours, theirs in zip(compiled.loss.terms, plain.loss.terms, strict=True):
            torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0, equal_nan=True)
        expected.backward()
        value.backward()
    for ours, theirs in zip(compiled.gradients(), plain.gradients(), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-3)


def train_in_a_group(rank: int, path: Path, meeting: Path) -> None:
    """One of two processes, for all losses and for what they gather."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=2)
    for case in CASES.values():
        assert_gradients_are_averaged(case, path, rank)
        assert_gathered_equals_one_process(case, path, rank)
    assert_gradients_of_transposes_arrive(rank)
    assert_unlike_sides_are_refused(path, rank)
    dist.destroy_process_group()


def assert_gradients_are_averaged(case: Case, path: Path, rank: int) -> None:
    """The averaged gradient must be the mean of the processes' own."""
    parallel = nn.parallel.DistributedDataParallel(Model(case, case.make(weights=path)))
    parallel(*case.inputs(seed=rank)).backward()
    expected = []
    for other in range(2):
        alone = Model(case, case.make(weights=path))
        alone(*case.inputs(seed=other)).backward()
        expected.append(alone.gradients())
    for found, *apart in zip(parallel.module.gradients(), *expected, strict=True):
        torch.testing.assert_close(found, sum(apart) / 2)


def assert_gathered_equals_one_process(case: Case, path: Path, rank: int) -> None:
    """Uneven shares: value, terms and averaged gradient must be those of all samples at once."""
    own = (slice(0, 70), slice(70, 160))[rank]
    shared = {"weights": path, "reduction": "sum"}
    for b in (None, 2):
        inputs = case.inputs(160, b)
        alone = Model(case, case.make(**shared))
        expected = alone(*inputs)
        expected.backward()
        parallel = nn.parallel.DistributedDataParallel(
            Model(case, case.make(gather=True, **shared))
        )
        value = parallel(*(side[own] if b is None else side[:, own] for side in inputs))
        value.backward()
        torch.testing.assert_close(value, expected, atol=1e-5, rtol=0)
        for ours, theirs in zip(parallel.module.loss.terms, alone.loss.terms, strict=True):
            torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0, equal_nan=True)
        for ours, theirs in zip(parallel.module.gradients(), alone.gradients(), strict=True):
            torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-3)


def assert_gradients_of_transposes_arrive(rank: int) -> None:
    """Gradients that are not contiguous, of a process without samples too, and other types."""
    count = 3 * rank  # none on the first
    own = torch.full((count, 2), float(rank)).requires_grad_()
    labels = torch.full((count,), rank == 1)
    joined, kept = gather_ranks([own, labels])
    assert joined.shape == (3, 2)
    assert kept.tolist() == [True] * 3
    first, second = gather_ranks([labels, own.detach()])  # classes may come first
    assert torch.equal(first, kept)
    assert torch.equal(second, joined)
    weight = torch.arange(6.0).reshape(2, 3)
    (joined.mT * weight).sum().backward()
    torch.testing.assert_close(own.grad, 2 * weight.mT[:count])


def assert_unlike_sides_are_refused(path: Path, rank: int) -> None:
    """On every process, so that none waits for the other."""
    loss = MutualInformationLoss("minimize", weights=path, gather=True)
    x, y = torch.randn(2, 60, 2, requires_grad=True).unbind()
    with pytest.raises(InputError, match=r"rank 0: .*\(60, 2\).*rank 1: .*\(60, 1\)"):
        loss(x, y[:, : 2 - rank])
    with pytest.raises(InputError, match="float64"):
        loss(x, y.double() if rank else y)


@pytest.mark.slow
def test_two_processes_average_their_gradients_or_gather(tiny_path: Path, tmp_path: Path) -> None:
    mp.spawn(train_in_a_group, (tiny_path, tmp_path / "meeting"), nprocs=2)


def test_gathering_alone_changes_nothing(case: Case, tiny_path: Path) -> None:
    inputs = case.tracked()
    gathering = case.make(weights=tiny_path, gather=True)
    assert torch.equal(gathering(*inputs), case.make(weights=tiny_path)(*inputs))
    assert repr(gathering).endswith(", gather=True)")
