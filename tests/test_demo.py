"""The demo: its data say what they claim, its judges know known answers, and it runs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from flashmi_reg import demo
from flashmi_reg.demo_data import channels, coloured_digits
from flashmi_reg.demo_probe import ksg, probe_r2
from flashmi_reg.errors import InputError


def test_colour_goes_with_the_digit_in_training_only() -> None:
    data = coloured_digits(0)

    def share_explained(split) -> float:
        means = torch.stack([split.colour[rows].mean() for rows in split.rows_of_class()])
        return 1 - float((split.colour[:, 0] - means[split.labels]).var() / split.colour.var())

    assert share_explained(data.train) > 0.8
    assert share_explained(data.test_in) > 0.8
    assert share_explained(data.test_out) < 0.1
    assert torch.equal(data.test_in.labels, data.test_out.labels)


def test_data_follow_the_seed() -> None:
    one, same, other = coloured_digits(3), coloured_digits(3), coloured_digits(4)
    assert torch.equal(one.train.images, same.train.images)
    assert not torch.equal(one.train.images, other.train.images)


def test_images_and_colours_are_in_range() -> None:
    data = coloured_digits(1)
    for split in (data.train, data.test_in, data.test_out):
        assert split.images.shape == (len(split.labels), 3, 8, 8)
        for values in (split.images, split.colour):
            assert float(values.min()) >= 0
            assert float(values.max()) <= 1
    assert channels(torch.tensor([[0.0], [1.0]])).tolist() == [[1, 0, 0], [0, 0, 1]]


def test_neighbours_find_the_information_of_a_gaussian() -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((1500, 2))
    y = 0.8 * x[:, :1] + 0.6 * rng.standard_normal((1500, 1))
    assert ksg(x, y) == pytest.approx(-0.5 * np.log(1 - 0.64), abs=0.1)
    assert ksg(x, rng.standard_normal((1500, 1))) == pytest.approx(0, abs=0.06)


def test_probe_finds_what_is_there_and_nothing_else() -> None:
    rng = np.random.default_rng(0)
    z = rng.standard_normal((600, 3))
    assert probe_r2(z, np.sin(2 * z[:, 0])) > 0.8
    assert probe_r2(z, rng.standard_normal(600)) < 0.05


def test_demo_prints_a_table_and_draws(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = torch.random.get_rng_state()
    report = demo.run_demo(output=tmp_path / "new", epochs=3, repeats=1)
    assert torch.equal(before, torch.random.get_rng_state())
    assert report.figure == tmp_path / "new" / "flashmi_demo.png"
    assert report.figure.read_bytes().startswith(b"\x89PNG")
    assert [len(arm.outcomes) for arm in report.arms] == [1, 1]
    printed = capsys.readouterr().out
    assert "colour at random" in printed
    assert str(report.figure) in printed


def test_demo_repeats_itself(tmp_path: Path) -> None:
    runs = [demo.run_demo(output=tmp_path, epochs=2, repeats=1, seed=5) for _ in range(2)]
    first, second = (run.arms[-1].latent for run in runs)
    torch.testing.assert_close(first, second)


@pytest.mark.slow
def test_term_removes_the_shortcut(tmp_path: Path) -> None:
    """What the demo is there to show, with margins well inside of what it reaches."""
    plain, term = demo.run_demo(output=tmp_path, repeats=1).arms
    assert term.outcomes[0].accuracy_out > plain.outcomes[0].accuracy_out + 0.05
    assert term.outcomes[0].colour_r2 < plain.outcomes[0].colour_r2 - 0.4


@pytest.mark.parametrize("name", ["epochs", "repeats"])
def test_demo_rejects_nothing_to_do(name: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=name):
        demo.run_demo(output=tmp_path, **{name: 0})
