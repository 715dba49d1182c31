"""The loss's contract: nothing of it shows in the user's model but its gradient."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn

from flashmi_reg import FlashMI, MutualInformationLoss, estimate, mutual_information
from flashmi_reg.errors import CheckpointError, InputError

DIRECTIONS = ["minimize", "maximize"]
GRADIENTS = ["critic", "full"]


def data(n: int = 100, b: int | None = None, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shape = (n,) if b is None else (b, n)
    x = torch.randn(*shape, 6, generator=generator)
    return x, x[..., :1] + torch.randn(*shape, 1, generator=generator)


class Encoder(nn.Module):
    """A user's model that carries the loss with it."""

    def __init__(self, loss: MutualInformationLoss) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.layer = nn.Linear(6, 3)
        self.loss = loss

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.loss(self.layer(x), y)


@pytest.fixture(params=DIRECTIONS)
def loss(request: pytest.FixtureRequest, tiny_path: Path) -> MutualInformationLoss:
    return MutualInformationLoss(request.param, weights=tiny_path)


# --- a module without a state -----------------------------------------------------------------


def test_loss_has_no_state_of_its_own(loss: MutualInformationLoss) -> None:
    assert list(loss.parameters()) == []
    assert list(loss.buffers()) == []
    assert loss.state_dict() == {}
    loss.load_state_dict({})


def test_module_with_the_loss_is_the_users_alone(loss: MutualInformationLoss) -> None:
    encoder = Encoder(loss)
    assert {name for name, _ in encoder.named_parameters()} == {"layer.weight", "layer.bias"}
    assert encoder.state_dict().keys() == {"layer.weight", "layer.bias"}
    optimizer = torch.optim.AdamW(encoder.parameters(), weight_decay=0.5)
    assert sum(p.numel() for group in optimizer.param_groups for p in group["params"]) == 21
    frozen = {name: w.clone() for name, w in loss._model._network.state_dict().items()}
    for _ in range(3):
        optimizer.zero_grad()
        encoder(*data()).backward()
        optimizer.step()
    encoder.apply(lambda module: nn.init.zeros_(module.weight) if hasattr(module, "weight") else 0)
    for name, weight in loss._model._network.state_dict().items():
        assert torch.equal(weight, frozen[name])


def test_train_and_eval_give_one_value(loss: MutualInformationLoss) -> None:
    x, y = data()
    x.requires_grad_()
    assert torch.equal(loss.train()(x, y), loss.eval()(x, y))


@pytest.mark.parametrize("cast", [torch.float64, torch.float16, torch.bfloat16])
def test_casting_the_module_casts_only_the_users_part(
    loss: MutualInformationLoss, cast: torch.dtype
) -> None:
    x, y = data()
    x.requires_grad_()
    expected = loss(x, y)
    encoder = Encoder(loss).to(cast)
    assert encoder.layer.weight.dtype == cast
    assert torch.equal(encoder.loss(x, y), expected)


@pytest.mark.filterwarnings("ignore::flashmi_reg.errors.SupportWarning")  # bfloat16 ties values
def test_autocast_changes_no_bit(loss: MutualInformationLoss) -> None:
    x, y = data()
    x.requires_grad_()
    expected = loss(x, y)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(loss(x, y), expected)
        encoder = Encoder(loss)
        value = encoder(x, y)  # a layer in bfloat16 before it
    value.backward()
    assert encoder.layer.weight.grad.isfinite().all()


# --- copies -----------------------------------------------------------------------------------


def duplicates(loss: MutualInformationLoss) -> list[MutualInformationLoss]:
    return [copy.copy(loss), copy.deepcopy(loss), pickle.loads(pickle.dumps(loss))]


@pytest.mark.parametrize("gradient", GRADIENTS)
def test_copies_of_a_loss_with_own_weights_compute_the_same(tiny_path: Path, gradient: str) -> None:
    loss = MutualInformationLoss(
        "maximize", gradient=gradient, reduction="none", weights=tiny_path
    ).eval()
    for duplicate in duplicates(loss):
        assert torch.equal(duplicate(*data(b=2)), loss(*data(b=2)))
        assert repr(duplicate) == repr(loss)
        assert not duplicate.training


def test_pickled_loss_does_not_need_the_file_of_its_weights(tiny: FlashMI, tmp_path: Path) -> None:
    path = tmp_path / "own.safetensors"
    tiny.save_pretrained(path)
    content = pickle.dumps(MutualInformationLoss("minimize", weights=path).eval())
    path.unlink()
    assert torch.equal(pickle.loads(content)(*data()), tiny.mutual_information(*data()))


def test_copies_of_a_loss_with_packaged_weights_share_one_network() -> None:
    loss = MutualInformationLoss("minimize")
    assert len(pickle.dumps(loss)) < 5000
    for duplicate in duplicates(loss):
        assert duplicate._model is loss._model


def test_whole_model_can_be_copied_and_saved(loss: MutualInformationLoss, tmp_path: Path) -> None:
    encoder = Encoder(loss)
    expected = encoder(*data())
    assert torch.equal(copy.deepcopy(encoder)(*data()), expected)
    torch.save(encoder.state_dict(), tmp_path / "state.pt")
    other = Encoder(loss)
    other.layer.reset_parameters()
    other.load_state_dict(torch.load(tmp_path / "state.pt"))
    assert torch.equal(other(*data()), expected)


# --- values -----------------------------------------------------------------------------------


def test_sign_follows_the_direction(tiny: FlashMI, tiny_path: Path) -> None:
    x, y = data(500)
    x.requires_grad_()
    mi = tiny.mutual_information(x, y)
    assert mi > 0.1
    assert torch.equal(MutualInformationLoss("minimize", weights=tiny_path)(x, y), mi)
    assert torch.equal(MutualInformationLoss("maximize", weights=tiny_path)(x, y), -mi)


@pytest.mark.parametrize("gradient", GRADIENTS)
@pytest.mark.parametrize("direction", DIRECTIONS)
def test_training_moves_the_information_the_way_asked(
    tiny: FlashMI, tiny_path: Path, direction: str, gradient: str
) -> None:
    loss = MutualInformationLoss(direction, gradient=gradient, weights=tiny_path)
    encoder = Encoder(loss)
    x, y = data(400)
    start = tiny.mutual_information(encoder.layer(x).detach(), y)
    optimizer = torch.optim.Adam(encoder.parameters(), lr=0.05)
    for _ in range(30):
        optimizer.zero_grad()
        encoder(x, y).backward()
        optimizer.step()
    end = tiny.mutual_information(encoder.layer(x).detach(), y)
    if direction == "minimize":
        assert end < 0.3 * start
    else:
        assert end > start + 0.03


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_reduction_is_over_data_sets(tiny: FlashMI, tiny_path: Path, direction: str) -> None:
    x, y = data(b=3)
    x.requires_grad_()
    sign = 1 if direction == "minimize" else -1
    values = sign * tiny.mutual_information(x, y)

    def reduced(how: str) -> Tensor:
        return MutualInformationLoss(direction, reduction=how, weights=tiny_path)(x, y)

    assert torch.equal(reduced("none"), values)
    assert torch.equal(reduced("mean"), values.mean())
    assert torch.equal(reduced("sum"), values.sum())


@pytest.mark.parametrize("how", ["none", "mean", "sum"])
def test_one_data_set_needs_no_reduction(tiny: FlashMI, tiny_path: Path, how: str) -> None:
    loss = MutualInformationLoss("minimize", reduction=how, weights=tiny_path).eval()
    assert torch.equal(loss(*data()), tiny.mutual_information(*data()))


def test_generator_draws_the_shuffled_pairs(tiny_path: Path) -> None:
    loss = MutualInformationLoss("minimize", weights=tiny_path).eval()
    values = [loss(*data(), generator=torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)]
    assert torch.equal(values[0], values[1])
    assert not torch.equal(values[0], values[2])


def test_gradient_mode_reaches_the_estimator(tiny: FlashMI, tiny_path: Path) -> None:
    found = {}
    for gradient in GRADIENTS:
        x, y = data()
        x.requires_grad_()
        MutualInformationLoss("minimize", gradient=gradient, weights=tiny_path)(x, y).backward()
        found[gradient] = x.grad
        x.grad = None
        tiny.mutual_information(x, y, gradient=gradient).backward()
        assert torch.equal(found[gradient], x.grad)
    assert not torch.equal(*found.values())


def test_representation_tells_the_settings() -> None:
    loss = MutualInformationLoss("maximize", gradient="full", reduction="sum")
    expected = "'maximize', gradient='full', reduction='sum', weights='base'"
    assert repr(loss) == f"MutualInformationLoss({expected})"


# --- misuse -----------------------------------------------------------------------------------


def test_loss_that_cannot_train_anything_is_refused(loss: MutualInformationLoss) -> None:
    x, y = data()
    with pytest.raises(InputError, match=r"neither `x` nor `y` requires a gradient.*detach"):
        loss(x, y)
    encoder = Encoder(loss)
    with pytest.raises(InputError, match="detach"):
        loss(encoder.layer(x).detach(), y)


def test_loss_may_be_evaluated_without_gradient(loss: MutualInformationLoss) -> None:
    x, y = data()
    with torch.no_grad():
        expected = loss(x, y)
    with torch.inference_mode():
        assert loss(x, y).item() == expected.item()
    assert torch.equal(loss.eval()(x, y), expected)


@pytest.mark.parametrize("side", ["x", "y"])
def test_gradient_of_either_side_is_enough(loss: MutualInformationLoss, side: str) -> None:
    sides = dict(zip("xy", data(), strict=True))
    sides[side].requires_grad_()
    loss(**sides).backward()
    assert (sides[side].grad != 0).any()


def test_what_is_no_tensor_is_refused_as_such(loss: MutualInformationLoss) -> None:
    x, y = data()
    with pytest.raises(InputError, match=r"`x`.*ndarray"):
        loss(x.numpy(), y)
    with pytest.raises(InputError, match=r"`y`.*list"):
        loss(x.requires_grad_(), y.tolist())


def test_batch_below_the_least_n_is_refused_in_training(loss: MutualInformationLoss) -> None:
    with pytest.raises(InputError, match=r"n = 32.*n >= 50"):
        Encoder(loss)(*data(32))


def test_unknown_weights_are_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="nowhere"):
        MutualInformationLoss("minimize", weights=tmp_path / "nowhere")


# --- compilers and processes ------------------------------------------------------------------


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
@pytest.mark.parametrize("gradient", GRADIENTS)
def test_compiled_model_computes_the_same(tiny_path: Path, backend: str, gradient: str) -> None:
    loss = MutualInformationLoss("minimize", gradient=gradient, weights=tiny_path)
    plain, compiled = Encoder(loss), Encoder(loss)
    fast = torch.compile(compiled, backend=backend)
    for seed in range(2):
        expected, value = plain(*data(seed=seed)), fast(*data(seed=seed))
        assert value.item() == pytest.approx(expected.item(), abs=1e-5)
        expected.backward()
        value.backward()
    torch.testing.assert_close(compiled.layer.weight.grad, plain.layer.weight.grad)


def train_in_a_group(rank: int, path: Path, meeting: Path) -> None:
    """One of two processes: the averaged gradient must be the mean of the processes' own."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=2)
    loss = MutualInformationLoss("minimize", weights=path)
    parallel = nn.parallel.DistributedDataParallel(Encoder(loss))
    for step in range(2):  # parameters that a step did not reach would show in the next
        parallel.zero_grad()
        parallel(*data(seed=10 * step + rank)).backward()
    expected = []
    for other in range(2):
        alone = Encoder(loss)
        alone(*data(seed=10 + other)).backward()
        expected.append(alone.layer.weight.grad)
    found = parallel.module.layer.weight.grad
    assert found.isfinite().all()
    assert not torch.allclose(*expected)
    torch.testing.assert_close(found, sum(expected) / 2)
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_processes_average_their_gradients(tiny_path: Path, tmp_path: Path) -> None:
    mp.spawn(train_in_a_group, (tiny_path, tmp_path / "meeting"), nprocs=2)


# --- the functions over packaged weights ------------------------------------------------------


@pytest.mark.parametrize("arguments", [{}, {"generator": 3}])
def test_functions_are_the_packaged_models_methods(arguments: dict[str, Any]) -> None:
    def seeded() -> dict[str, Any]:
        return {k: torch.Generator().manual_seed(v) for k, v in arguments.items()}

    model = FlashMI.from_pretrained("base")
    x, y = data()
    expected = model.mutual_information(x, y, **seeded())
    assert torch.equal(mutual_information(x, y, **seeded()), expected)
    assert torch.equal(estimate(x, y, **seeded()).value, expected)


@pytest.mark.parametrize("gradient", GRADIENTS)
def test_function_is_differentiable_as_asked(gradient: str) -> None:
    gradients = []
    for function in (mutual_information, FlashMI.from_pretrained("base").mutual_information):
        x, y = data()
        x.requires_grad_()
        function(x, y, gradient=gradient).backward()
        gradients.append(x.grad)
    assert torch.equal(*gradients)
