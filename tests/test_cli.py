"""The command line: help, errors in one sentence, and estimates from files."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from flashmi_reg import errors
from flashmi_reg.cli import main


@pytest.fixture
def samples() -> np.ndarray:
    """Three columns, the last two with I(x; y) = 0.51 nats between them."""
    rng = np.random.default_rng(0)
    values = rng.standard_normal((1000, 3))
    values[:, 2] = 0.8 * values[:, 1] + 0.6 * values[:, 2]
    return values


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = main(list(arguments))
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.mark.parametrize("arguments", [[], ["demo"], ["info"], ["estimate"]], ids=str)
def test_help_shows_an_example(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main([*arguments, "--help"])
    assert stop.value.code == 0
    assert "flashmi" in capsys.readouterr().out


def test_pretrain_has_its_own_help(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["pretrain", "--help"])
    assert stop.value.code == 0
    assert "--" in capsys.readouterr().out


def test_command_is_required() -> None:
    with pytest.raises(SystemExit) as stop:
        main([])
    assert stop.value.code == 2


def test_module_runs_as_a_program() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "flashmi_reg.cli", "--help"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "estimate" in done.stdout


def test_info_names_weights_and_versions(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "info")
    assert code == 0
    assert "torch" in out
    assert "weights base" in out


def test_estimates_agree_between_file_formats(
    samples: np.ndarray, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.save(tmp_path / "a.npy", samples)
    np.savez(tmp_path / "a.npz", left=samples[:, 1], right=samples[:, 2:])
    named, bare = tmp_path / "named.csv", tmp_path / "bare.csv"
    np.savetxt(named, samples, delimiter=",", header="noise,left,right", comments="")
    np.savetxt(bare, samples, delimiter=",")
    values = []
    for path, x, y in [
        (tmp_path / "a.npy", "1", "2:"),
        (tmp_path / "a.npz", "left", "right"),
        (named, "left", "right"),
        (bare, "1:2", "2"),
    ]:
        code, out, err = run(capsys, "estimate", str(path), "--x", x, "--y", y, "--json")
        assert code == 0, err
        found = json.loads(out)
        assert (found["n"], found["dx"], found["dy"]) == (1000, 1, 1)
        values.append(found["nats"])
    assert values[0] == pytest.approx(-0.5 * np.log(1 - 0.64), abs=0.12)
    assert np.ptp(values) < 0.05  # the formats keep all digits that ranks need


def test_plain_output_gives_the_unit(
    samples: np.ndarray, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.save(tmp_path / "a.npy", samples)
    code, out, _ = run(capsys, "estimate", str(tmp_path / "a.npy"), "--x", "0,1", "--y", "2")
    assert code == 0
    assert "nats" in out
    assert "n = 1000" in out


@pytest.mark.parametrize(
    ("name", "x", "y", "says"),
    [
        ("missing.npy", "0", "1", "does not exist"),
        ("a.txt", "0", "1", "expected .csv, .npy or .npz"),
        ("a.npy", "0", "7", "3 columns"),
        ("a.npy", "0", "weight", "'weight'"),
        ("a.npy", "", "1", "3 columns"),
        ("flat.npy", "0", "1", "shape (5,)"),
        ("a.npz", "left", "right", "'right'"),
        ("words.csv", "0", "1", "not a number"),
        ("ragged.csv", "0", "1", "equally many"),
        ("empty.csv", "0", "1", "equally many"),
    ],
)
def test_errors_are_one_sentence(
    name: str,
    x: str,
    y: str,
    says: str,
    samples: np.ndarray,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    np.save(tmp_path / "a.npy", samples)
    np.save(tmp_path / "flat.npy", samples[:5, 0])
    np.savez(tmp_path / "a.npz", left=samples)
    (tmp_path / "a.txt").write_text("1 2\n")
    (tmp_path / "words.csv").write_text("a,b\n1,2\nred,3\n")
    (tmp_path / "ragged.csv").write_text("1,2\n1\n")
    (tmp_path / "empty.csv").write_text("")
    code, out, err = run(capsys, "estimate", str(tmp_path / name), "--x", x, "--y", y)
    assert code == 2
    assert out == ""
    assert says in err
    assert err.startswith("flashmi: ")
    assert len(err.strip().splitlines()) == 1


def test_errors_of_the_estimator_are_caught(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    values = np.ones((300, 2))
    values[0, 0] = np.nan
    np.save(tmp_path / "a.npy", values)
    code, _, err = run(capsys, "estimate", str(tmp_path / "a.npy"), "--x", "0", "--y", "1")
    assert code == 2
    assert len(err.strip().splitlines()) == 1


def test_every_error_is_a_flashmi_error() -> None:
    kinds = (errors.InputError, errors.CheckpointError, errors.MissingExtraError)
    assert all(issubclass(kind, errors.FlashMIError) for kind in kinds)
