"""The information plane in Transformers, on a tiny BERT made here."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

pytest.importorskip("transformers")
pytest.importorskip("accelerate")

from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainingArguments

from flashmi_reg import FlashMI
from flashmi_reg.checkpoint import load_weights, save_weights
from flashmi_reg.errors import CheckpointError, InputError
from flashmi_reg.integrations import recorder as recorder_module
from flashmi_reg.integrations.information_plane import Measurement
from flashmi_reg.integrations.transformers import InformationPlaneCallback, mean_over_tokens

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")

LAYERS = ["bert.encoder.layer.0", "bert.encoder.layer.1"]


def make_model(seed: int = 0) -> BertForSequenceClassification:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        config = BertConfig(
            vocab_size=30,
            hidden_size=8,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=16,
            max_position_embeddings=12,
            num_labels=2,
        )
        return BertForSequenceClassification(config)


def make_data(n: int = 128) -> list[dict[str, Tensor]]:
    """Token 1 stands for class 1, token 2 for class 0; the rest is noise and padding."""
    generator = torch.Generator().manual_seed(0)
    rows = []
    for _ in range(n):
        label = int(torch.randint(2, (), generator=generator))
        ids = torch.randint(3, 30, (8,), generator=generator)
        ids[1] = 2 - label
        mask = (torch.arange(8) < torch.randint(4, 9, (), generator=generator)).long()
        rows.append({"input_ids": ids, "attention_mask": mask, "labels": torch.tensor(label)})
    return rows


def make_trainer(folder: Path, model: nn.Module | None = None, **options: Any) -> Trainer:
    usual: dict[str, Any] = {
        "output_dir": str(folder),
        "num_train_epochs": 2,
        "per_device_train_batch_size": 32,
        "per_device_eval_batch_size": 32,
        "learning_rate": 1e-2,
        "eval_strategy": "epoch",
        "save_strategy": "no",
        "report_to": [],
        "disable_tqdm": True,
        "use_cpu": True,
        "seed": 0,
    }
    return Trainer(
        model=model or make_model(),
        args=TrainingArguments(**(usual | options)),
        train_dataset=make_data(),
        eval_dataset=make_data(96),
    )


def watch(trainer: Trainer, *args: Any, **options: Any) -> InformationPlaneCallback:
    usual: dict[str, Any] = {"every_n_epochs": 1, "n_samples": 64, "figure": False}
    callback = InformationPlaneCallback(trainer, *args, **(usual | options))
    trainer.add_callback(callback)
    return callback


def hooks_of(module: nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in module.modules())


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Tensor, Tensor]]:
    """Puts a cheap function of all rows in the place of the estimates, and keeps what it saw."""
    seen: list[tuple[Tensor, Tensor]] = []

    def stand_in(x: Tensor, y: Tensor, **_: Any) -> Measurement:
        seen.append((x, y))
        value = torch.arange(1.0, len(x) + 1) @ x.mean(1) + y.float().mean()
        return Measurement(float(0.1 * value.sin()), "quick")

    monkeypatch.setattr(recorder_module, "measure", stand_in)
    return seen


def test_tokens_are_averaged_where_the_mask_keeps_them() -> None:
    hidden = torch.tensor([[[1.0], [3.0], [100.0]], [[2.0], [4.0], [6.0]]])
    mask = torch.tensor([[1, 1, 0], [1, 1, 1]])
    assert mean_over_tokens(hidden, mask).tolist() == [[2.0], [4.0]]
    assert mean_over_tokens(hidden[1:]).tolist() == [[4.0]]
    assert mean_over_tokens(hidden[:, 0]).tolist() == [[1.0], [2.0]]
    assert mean_over_tokens(torch.ones(2, 5, 3, 4)).shape == (2, 5)
    assert mean_over_tokens(hidden, torch.zeros(2, 3)).tolist() == [[0.0], [0.0]]


def test_hidden_states_learn_the_label(tmp_path: Path) -> None:
    """The real estimates: I(z; y) of the last block grows towards the entropy of the label."""
    trainer = make_trainer(tmp_path, num_train_epochs=6, eval_strategy="no")
    watcher = watch(trainer, LAYERS[1], every_n_epochs=1, n_samples=128, figure=True)
    trainer.train()
    curve = [p for p in watcher.points if p.quantity == "I_zy"]
    assert [p.epoch for p in curve] == [1, 2, 3, 4, 5, 6]
    assert {p.path for p in watcher.points} == {"native", "labels"}
    assert curve[-1].value == pytest.approx(math.log(2), abs=0.1)
    assert curve[-1].value > curve[0].value + 0.1
    assert curve[-1].ceiling == pytest.approx(math.log(2), abs=0.05)
    assert (tmp_path / "information_plane.png").read_bytes().startswith(b"\x89PNG")


def test_values_reach_the_log_of_the_trainer(quick: list, tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path)
    watcher = watch(trainer)  # the blocks by default
    trainer.train()
    names = [f"{layer}/{what}_quick" for layer in LAYERS for what in ("I_xz", "I_zy")]
    expected = [f"{split}/{name}" for _ in "12" for split in ("train", "eval") for name in names]
    assert [p.name for p in watcher.points] == expected
    logged = {
        (key, entry["step"]): value
        for entry in trainer.state.log_history
        for key, value in entry.items()
    }
    for point in watcher.points:
        assert logged[f"information_plane/{point.name}", point.step] == point.value
        assert point.n == 64
    assert any(key == "information_plane/overhead" for key, _ in logged)
    assert hooks_of(trainer.model) == 0


def test_rows_are_pooled_and_pair_up(quick: list, tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, num_train_epochs=1)
    watch(trainer, LAYERS[0])
    trainer.train()
    model, data = trainer.model.eval(), make_data(96)
    batch = {key: torch.stack([row[key] for row in data]) for key in data[0]}
    kept: list[Tensor] = []
    block = model.bert.encoder.layer[0]
    handle = block.register_forward_hook(
        lambda module, args, out: kept.append(out if isinstance(out, Tensor) else out[0])
    )
    with torch.no_grad():
        model(**batch)
        table = model.get_input_embeddings().weight
        inputs = mean_over_tokens(table[batch["input_ids"]], batch["attention_mask"])
        states = mean_over_tokens(kept[0], batch["attention_mask"])
    handle.remove()
    (x, z), (_, y) = quick[-2:]  # of the evaluation, after training
    place = [int((inputs - row).abs().sum(1).argmin()) for row in x]
    assert len(set(place)) == 64
    torch.testing.assert_close(x, inputs[place])
    torch.testing.assert_close(z, states[place], atol=1e-5, rtol=1e-4)
    assert torch.equal(y, batch["labels"][place])


def test_training_is_not_disturbed(quick: list, tmp_path: Path) -> None:
    ends = []
    for watched in (False, True):
        trainer = make_trainer(tmp_path)
        if watched:
            watch(trainer)
        trainer.train()
        ends.append(list(trainer.model.parameters()))
    assert all(torch.equal(a, b) for a, b in zip(*ends, strict=True))


def test_cadence_in_steps_and_accumulated_gradients(quick: list, tmp_path: Path) -> None:
    trainer = make_trainer(
        tmp_path,
        per_device_train_batch_size=8,
        gradient_accumulation_steps=2,
        num_train_epochs=1,
        eval_strategy="steps",
        eval_steps=4,
    )
    watcher = watch(trainer, LAYERS[0], every_n_epochs=None, every_n_steps=2)
    trainer.train()  # 8 steps of two batches of 8
    train = [(p.step, p.n) for p in watcher.points if (p.split, p.quantity) == ("train", "I_xz")]
    assert train == [(2, 32), (4, 32), (6, 32), (8, 32)]
    assert {(p.step, p.n) for p in watcher.points if p.split == "eval"} == {(4, 64), (8, 64)}


def test_two_instances_side_by_side(quick: list, tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path)
    one, two = watch(trainer, LAYERS[0]), watch(trainer, LAYERS[1], prefix="b", every_n_epochs=2)
    trainer.train()
    assert len(one.points) == 8
    assert len(two.points) == 4
    assert hooks_of(trainer.model) == 0


def test_resumes_from_a_checkpoint(quick: list, tmp_path: Path) -> None:
    options = {"save_strategy": "epoch", "num_train_epochs": 3}
    whole = make_trainer(tmp_path, **options)
    first = watch(whole)
    whole.train()
    again = make_trainer(tmp_path, **options)
    second = watch(again)
    again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-8"))
    assert [p.name for p in second.points] == [p.name for p in first.points]
    for found, expected in zip(second.points, first.points, strict=True):
        assert found.value == pytest.approx(expected.value, abs=1e-4)
        assert (found.step, found.n) == (expected.step, expected.n)
        assert found.ceiling == pytest.approx(expected.ceiling)


def test_hooks_are_gone_after_errors(quick: list, tmp_path: Path) -> None:
    class Failing(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            raise RuntimeError("on purpose")

    model = make_model()
    model.classifier = Failing(8, 2)
    trainer = make_trainer(tmp_path, model)
    watch(trainer)
    with pytest.raises(RuntimeError, match="on purpose"):
        trainer.train()
    assert hooks_of(model) == 0


def test_labels_of_tokens_are_left_out(quick: list, tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, num_train_epochs=1, eval_strategy="no")
    watcher = watch(trainer, LAYERS[0])
    found = watcher._x_and_y
    watcher._model = trainer.model
    ids = torch.zeros(2, 4, dtype=torch.long)
    assert found({"input_ids": ids, "labels": ids})[1] is None
    assert found({"pixel_values": torch.ones(2, 3, 4, 4)})[0].shape == (2, 3, 4, 4)
    with pytest.raises(InputError, match=r"\['a'\].*`inputs=`"):
        found({"a": 1})


def test_run_too_short_to_pay_for_a_point_says_so(quick: list, tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path)
    watcher = watch(trainer, every_n_epochs=None)
    with pytest.warns(UserWarning, match="set `every_n_epochs`"):
        trainer.train()
    assert watcher.points == ()
    assert not quick


def test_weights_are_those_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / "copy.safetensors"
    state, header = load_weights("base")
    save_weights(path, state, replace(header, steps=123))
    asked = []

    def stand_in(x: Tensor, y: Tensor, *, model: FlashMI, **_: Any) -> Measurement:
        asked.append(model.header.steps)
        return Measurement(0.0, "quick")

    monkeypatch.setattr(recorder_module, "measure", stand_in)
    trainer = make_trainer(tmp_path, num_train_epochs=1, eval_strategy="no")
    watch(trainer, LAYERS[0], weights=path)
    trainer.train()
    assert asked == [123, 123]
    with pytest.raises(CheckpointError, match="neither a packaged name"):
        watch(trainer, weights="none of ours")


def test_what_cannot_work_is_said(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="`trainer` must be the Trainer"):
        InformationPlaneCallback("bert.*")
    trainer = make_trainer(tmp_path)
    watch(trainer, "bert.block.*")
    with pytest.raises(InputError, match=r"`layers` has 'bert\.block"):
        trainer.train()
    plain = SimpleNamespace(log=lambda values: None)
    for name, options in (
        ("n_samples", {"n_samples": 1}),
        ("every_n_epochs", {"every_n_epochs": 0}),
    ):
        with pytest.raises(InputError, match=f"`{name}`"):
            InformationPlaneCallback(plain, figure=False, **options)
